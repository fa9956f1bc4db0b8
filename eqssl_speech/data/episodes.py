"""Episodes: which rank reads which batches of which source, in every outer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from fairseq2.device import Device, SupportsDeviceTransfer
from typing_extensions import override

from eqssl_speech.data.batching import BatchPlan, BatchStream
from eqssl_speech.data.labelled import SpeechBatch
from eqssl_speech.data.schedule import SourceSchedule


@final
@dataclass
class Episode(SupportsDeviceTransfer):
    """K+1 batches of one data source: one for each inner step and one at phi^K."""

    source_name: str
    batches: list[SpeechBatch]

    seed: int = 0
    """For the random draws of the episode (masks, distractors, dropout), whichever rank has it."""

    is_dead: bool = False
    """Whether no recording of the source could be read: the batches are of the right shape and silent then."""

    @override
    def to(self, device: Device, *, non_blocking: bool = False) -> None:
        for batch in self.batches:
            batch.to(device, non_blocking=non_blocking)

    @property
    def num_utterances(self) -> int:
        """The number of crops in all batches."""
        return sum(batch.batch_size for batch in self.batches)

    @property
    def num_samples(self) -> int:
        """The number of samples in all batches."""
        return sum(batch.num_elements for batch in self.batches)


@dataclass(frozen=True, kw_only=True)
class EpisodeLayout:
    """How the episodes of an outer step are dealt out."""

    num_batches: int
    """The batches of an episode on one rank, K+1."""

    episodes_per_source: int = 1
    """How often a source of the step has its turn."""

    num_replicas: int = 1
    """The replicas of the model; a step's episodes are dealt to them in turn."""

    replica: int = 0
    """The replica of this rank."""

    replica_size: int = 1
    """The ranks of a replica: they read the same source, different utterances."""

    rank_in_replica: int = 0
    """This rank's number within its replica."""

    def episodes_per_step(self, num_sources: int) -> int:
        """Return the number of episodes of an outer step over all replicas."""
        return num_sources * self.episodes_per_source

    def batches_per_step(self, num_sources: int) -> int:
        """Return the number of batches of an outer step over all ranks; they share its budget of audio."""
        return self.episodes_per_step(num_sources) * self.num_batches * self.replica_size


def fit_episodes_per_source(num_sources: int, wanted: int, num_replicas: int) -> int:
    """Return the least number of episodes per source, ``wanted`` or more, that can be dealt out evenly.

    :param num_sources: The sources of a step.
    :param wanted: At least 1.
    :param num_replicas: At least 1.
    """
    episodes_per_source = wanted

    while (num_sources * episodes_per_source) % num_replicas != 0:
        episodes_per_source += 1

    return episodes_per_source


@dataclass(frozen=True)
class EpisodePlan:
    """An episode of this rank, before any audio is read."""

    stream: int
    """The index of the source's stream."""

    batches: tuple[BatchPlan, ...]

    seed: int = 0

    end_of_step: PlannerState | None = None
    """After the last episode of an outer step: where the next one begins."""


@dataclass(frozen=True)
class PlannerState:
    """The position of a planner."""

    step_nr: int
    """The number of outer steps planned."""

    positions: tuple[tuple[int, int], ...]
    """The position of each stream."""

    batches_per_pass: tuple[int, ...]
    """The batches of each stream's present pass."""


@final
class EpisodePlanner:
    """Plans the episodes of this rank, without end.

    Every rank walks through the episodes of all ranks and keeps its own; so all agree on the schedule, and the same
    episodes make the same update however many ranks share them.
    """

    def __init__(
        self,
        streams: Sequence[BatchStream],
        schedule: SourceSchedule,
        layout: EpisodeLayout,
        *,
        seed: int,
    ) -> None:
        """
        :param streams: The batches of each source.
        :param schedule: The sources of each step.
        :param layout: How episodes are dealt out.
        :param seed: Shared by all ranks.
        """
        self._streams = streams
        self._schedule = schedule
        self._layout = layout
        self._seed = seed
        self._step_nr = 0
        self._pending: list[EpisodePlan] = []

    def __iter__(self) -> EpisodePlanner:
        return self

    def __next__(self) -> EpisodePlan:
        if not self._pending:
            self._pending = self._plan_step()

        return self._pending.pop(0)

    @property
    def num_episodes(self) -> int:
        """The number of episodes of an outer step on this rank."""
        layout = self._layout

        return layout.episodes_per_step(self._schedule.num_sources_per_step) // layout.num_replicas

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of episodes that each stream gets in the long run."""
        return self._schedule.shares

    @property
    def batches_per_pass(self) -> tuple[int, ...]:
        """The batches in which each stream goes through its utterances once, about."""
        return tuple(stream.num_batches for stream in self._streams)

    @property
    def num_utterances(self) -> tuple[int, ...]:
        """The utterances of each stream."""
        return tuple(stream.num_utterances for stream in self._streams)

    @property
    def batch_num_samples(self) -> int:
        """The budget of a batch."""
        return self._streams[0].num_samples

    @property
    def state(self) -> PlannerState:
        """Where the next outer step begins."""
        positions = tuple(s.position for s in self._streams)

        return PlannerState(self._step_nr, positions, self.batches_per_pass)

    @state.setter
    def state(self, value: PlannerState) -> None:
        self._step_nr = value.step_nr
        self._pending = []

        for stream, position in zip(self._streams, value.positions, strict=True):
            stream.position = position

    def convert(self, state: PlannerState) -> PlannerState:
        """Return the state in which this planner is as far in every pass as one whose batches have another size.

        :param state: The other's; this planner's own is undefined after the call.
        """
        positions = []

        for stream, (pass_nr, index), num_batches in zip(
            self._streams, state.positions, state.batches_per_pass, strict=True
        ):
            stream.position = (pass_nr, 0)

            positions.append((pass_nr, round(index * stream.num_batches / num_batches)))

        return PlannerState(state.step_nr, tuple(positions), self.batches_per_pass)

    def _plan_step(self) -> list[EpisodePlan]:
        self._step_nr += 1

        layout = self._layout
        sources = [
            source
            for source in self._schedule.sources_at(self._step_nr)
            for _ in range(layout.episodes_per_source)
        ]

        plans = []

        for number, source in enumerate(sources):
            batches = self._draw(source)

            if number % layout.num_replicas == layout.replica:
                plans.append(EpisodePlan(source, batches, self._episode_seed(number)))

        plans[-1] = replace(plans[-1], end_of_step=self.state)

        return plans

    def _episode_seed(self, number: int) -> int:
        key = [self._seed, self._step_nr, number, self._layout.rank_in_replica]

        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _draw(self, source: int) -> tuple[BatchPlan, ...]:
        layout = self._layout

        drawn = [
            next(self._streams[source]) for _ in range(layout.num_batches * layout.replica_size)
        ]

        return tuple(drawn[layout.rank_in_replica :: layout.replica_size])
