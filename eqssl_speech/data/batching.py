"""From utterance lengths to batches of an exact number of samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import final

import numpy as np
import numpy.typing as npt

_MAX_BUCKET_NUM_UTTERANCES = 256


@dataclass(frozen=True, slots=True)
class Crop:
    """A stretch of one utterance."""

    utterance: int
    """The index of the utterance in its stream."""

    start: int
    """The first sample."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a batch holds, before any audio is read."""

    crops: tuple[Crop, ...]
    num_samples: int
    """The length of every crop, in samples; of the longest, where utterances stay whole."""


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """The bounds of a batch, in samples."""

    num_samples: int
    """The budget of a batch, over all of its crops."""

    max_num_samples: int
    """No crop is longer."""

    min_num_samples: int = 1
    """No crop is shorter; no utterance may be."""


@final
class BatchStream:
    """An endless stream of batches of one source.

    Each pass shuffles the utterances, sorts them by length within buckets, joins neighbours until they hold the
    budget, crops all of a batch to one length at random places (as wav2vec 2.0 does, so there is no padding), and
    shuffles the batches. ``N`` crops of ``budget // N`` samples spend the budget to less than ``N`` samples. What is
    left at the end and fills no batch is filled up with second crops of others, so that a pass misses no utterance,
    however few there are. Everything follows from the seed, the key and the number of the pass, so the position in the
    stream is two integers.

    With ``cropped=False`` utterances stay whole, as text needs them: a batch then holds as many as fit into the budget
    with their padding, and a pass drops none.
    """

    def __init__(
        self,
        lengths: Sequence[int] | npt.NDArray[np.int64],
        size: BatchSize,
        *,
        seed: int,
        key: int,
        weights: npt.NDArray[np.float64] | None = None,
        cropped: bool = True,
    ) -> None:
        """
        :param lengths: The number of samples of each utterance.
        :param size: The bounds of a batch. Utterances that stay whole must not be longer than its budget.
        :param seed: Shared by all ranks.
        :param key: Tells the streams of one seed apart.
        :param weights: If given, a pass draws its utterances in proportion to these, with replacement; otherwise it
            takes each once. *Shape:* ``(U,)``.
        :param cropped: Whether all of a batch is cropped to one length.
        :raises ValueError: If all utterances together do not fill one batch.
        """
        self._lengths = np.minimum(np.asarray(lengths, dtype=np.int64), size.max_num_samples)
        self._full_lengths = np.asarray(lengths, dtype=np.int64)
        self._size = size
        self._seed = seed
        self._key = key
        self._probabilities = None if weights is None else weights / weights.sum()
        self._cropped = cropped
        self._pass_nr = 0
        self._index = 0
        self._plans = self._plan_pass(0)

        if not self._plans:
            raise ValueError("The utterances do not fill one batch.")

    def __next__(self) -> BatchPlan:
        while self._index >= len(self._plans):
            self._pass_nr, self._index = self._pass_nr + 1, 0

            self._plans = self._plan_pass(self._pass_nr)

        plan = self._plans[self._index]

        self._index += 1

        return plan

    @property
    def num_samples(self) -> int:
        """The budget of a batch."""
        return self._size.num_samples

    @property
    def num_utterances(self) -> int:
        """The utterances of the source."""
        return len(self._lengths)

    @property
    def num_batches(self) -> int:
        """The batches of the present pass; other passes have about as many."""
        return len(self._plans)

    @property
    def position(self) -> tuple[int, int]:
        """The number of the pass and the index in it of the next batch."""
        return self._pass_nr, self._index

    @position.setter
    def position(self, value: tuple[int, int]) -> None:
        pass_nr, index = value

        if pass_nr != self._pass_nr:
            self._plans = self._plan_pass(pass_nr)

        self._pass_nr, self._index = pass_nr, index

    def _plan_pass(self, pass_nr: int) -> list[BatchPlan]:
        rng = np.random.default_rng([self._seed, self._key, pass_nr])

        num_utterances = len(self._lengths)

        if self._probabilities is None:
            order = rng.permutation(num_utterances)
        else:
            order = rng.choice(num_utterances, size=num_utterances, p=self._probabilities)

        if self._cropped:
            groups, rest = group_by_length(order, self._lengths, self._size)

            if rest and (others := self._list_fillers(order, rest, bool(groups), pass_nr)).size:
                groups.append(fill_group(rest, rng.permutation(others), self._lengths, self._size))

            plans = [self._crop(group, rng) for group in groups]
        else:
            ordered = _sort_loosely(order, self._full_lengths, rng)
            plans = _plan_whole(ordered, self._full_lengths, self._size.num_samples)

        return [plans[i] for i in rng.permutation(len(plans))]

    def _list_fillers(
        self, order: npt.NDArray[np.int64], rest: list[int], has_groups: bool, pass_nr: int
    ) -> npt.NDArray[np.int64]:
        if not has_groups:
            # The first pass shows whether there is enough for a batch, of each utterance once.
            return order if pass_nr > 0 else order[:0]

        # Where utterances are drawn, a pass misses none that it should have.
        return np.setdiff1d(order, rest) if self._probabilities is None else order[:0]

    def _crop(self, group: list[int], rng: np.random.Generator) -> BatchPlan:
        num_samples = min(self._size.num_samples // len(group), int(self._lengths[group].min()))

        starts = rng.integers(0, self._full_lengths[group] - num_samples + 1)

        crops = tuple(Crop(u, int(s)) for u, s in zip(group, starts))

        return BatchPlan(crops, num_samples)


def group_by_length(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], size: BatchSize
) -> tuple[list[list[int]], list[int]]:
    """Join utterances of like length until ``len(group) * shortest`` reaches the budget.

    Where the crops would be too short then, the last one is left to the next group, and the group is a little smaller
    than the budget.

    :param order: The utterances in the order in which they are seen.
    :param lengths: The number of samples of each utterance.
    :param size: The bounds of a group.
    :returns: The groups, and the utterances left over at the end.
    """
    groups: list[list[int]] = []
    group: list[int] = []

    for utterance in _sort_within_buckets(order, lengths):
        group.append(utterance)

        if len(group) * int(lengths[group].min()) < size.num_samples:
            continue

        if size.num_samples // len(group) >= size.min_num_samples:
            groups.append(group)
            group = []
        else:
            groups.append(group[:-1])
            group = group[-1:]

    return groups, group


def fill_group(
    rest: list[int],
    others: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    size: BatchSize,
) -> list[int]:
    """Fill a group up to the budget; where the crops would be too short then, to a little less.

    :param rest: What the group has to have, less than the budget.
    :param others: What it is filled with, over and over if need be; first, in this order, what makes no crop shorter,
        then the longest.
    :param lengths: The number of samples of each utterance.
    :param size: The bounds of a group.
    """
    group = list(rest)
    shortest = int(lengths[group].min())

    fillers = others[np.argsort(-np.minimum(lengths[others], shortest), kind="stable")]

    for utterance in cycle(fillers.tolist()):
        if len(group) * shortest >= size.num_samples:
            break

        if size.num_samples // (len(group) + 1) < size.min_num_samples:
            break

        group.append(utterance)
        shortest = min(shortest, int(lengths[utterance]))

    return group


def _sort_within_buckets(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Iterator[int]:
    """Yield falling and rising lengths by turns, so that neighbours are alike across buckets too.

    Were the short ones carried over to the next bucket's long ones instead, the shortest of all would end up in what is
    dropped, pass for pass. Small sources have several buckets, or each pass would make the same batches of them.
    """
    size = min(max(len(order) // 4, 8), _MAX_BUCKET_NUM_UTTERANCES)

    for number, begin in enumerate(range(0, len(order), size)):
        bucket = [int(u) for u in order[begin : begin + size]]
        bucket.sort(key=lambda u: (-int(lengths[u]), u))

        yield from bucket if number % 2 == 0 else reversed(bucket)


def plan_validation(
    lengths: Sequence[int] | npt.NDArray[np.int64], size: BatchSize
) -> list[BatchPlan]:
    """Group all utterances into batches, longest first, each cropped at its start to the shortest of its batch.

    :param lengths: The number of samples of each utterance.
    :param size: The bounds of a batch.
    :returns: The batches; every utterance is in one.
    """
    clipped = np.minimum(np.asarray(lengths, dtype=np.int64), size.max_num_samples)
    order = sorted(range(len(clipped)), key=lambda u: (-int(clipped[u]), u))

    plans: list[BatchPlan] = []
    group: list[int] = []

    for i, utterance in enumerate(order):
        group.append(utterance)

        if len(group) * int(clipped[utterance]) >= size.num_samples or i == len(order) - 1:
            crops = tuple(Crop(u, 0) for u in group)
            plans.append(BatchPlan(crops, int(clipped[utterance])))
            group = []

    return plans


def plan_whole(lengths: Sequence[int] | npt.NDArray[np.int64], num_samples: int) -> list[BatchPlan]:
    """Group all utterances into padded batches of whole utterances, longest first.

    :param lengths: The number of samples of each utterance.
    :param num_samples: The budget of a batch with its padding; an utterance that is longer has a batch of its own.
    :returns: The batches; every utterance is in one.
    """
    array = np.asarray(lengths, dtype=np.int64)
    order = sorted(range(len(array)), key=lambda u: (-int(array[u]), u))

    return _plan_whole(order, array, num_samples)


def _plan_whole(
    order: Iterable[int], lengths: npt.NDArray[np.int64], num_samples: int
) -> list[BatchPlan]:
    groups: list[list[int]] = []
    longest = 0

    for utterance in order:
        longest = max(longest, int(lengths[utterance]))

        if groups and (len(groups[-1]) + 1) * longest <= num_samples:
            groups[-1].append(utterance)
        else:
            groups.append([utterance])
            longest = int(lengths[utterance])

    _even_out_last(groups, lengths, num_samples)

    return [
        BatchPlan(tuple(Crop(u, 0) for u in group), int(lengths[group].max())) for group in groups
    ]


def _even_out_last(
    groups: list[list[int]], lengths: npt.NDArray[np.int64], num_samples: int
) -> None:
    """Share the utterances of the last two groups evenly.

    What is left over at the end would otherwise be a batch that counts like the others but holds next to nothing.
    """
    if len(groups) < 2:
        return

    both = groups[-2] + groups[-1]
    halves = [both[: (len(both) + 1) // 2], both[(len(both) + 1) // 2 :]]

    if all(len(half) * int(lengths[half].max()) <= num_samples for half in halves):
        groups[-2:] = halves


def _sort_loosely(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], rng: np.random.Generator
) -> list[int]:
    """Sort by length, the longest first, but by lengths that are off by some 10 %, so that no two passes have the same
    batches and there is little padding all the same."""
    keys = lengths[order] * np.exp(0.1 * rng.standard_normal(len(order)))

    return [int(u) for u in order[np.argsort(-keys, kind="stable")]]
