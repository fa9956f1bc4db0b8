"""The speech that is clustered: drawn from the training splits, of each source as much; kept as features on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, final

import numpy as np
import numpy.typing as npt

from eqssl_speech.data.audio import AudioError, AudioFormat
from eqssl_speech.error import InputError
from eqssl_speech.labels.features import FeatureExtractor, FrameWindow, cut_window
from eqssl_speech.labels.files import save, work_dir
from eqssl_speech.labels.kmeans import Frames
from eqssl_speech.labels.settings import count_all_frames
from eqssl_speech.tasks.labels.recordings import LabelSplit, Recordings, map_in_order

_BLOCK_BYTES: Final = 32 << 20

_BLOCK_S: Final = 600
"""Features of so much audio are one block at the most, so that there are some for each process."""


@final
@dataclass(frozen=True)
class SubsetItem:
    """A window that is clustered."""

    split: LabelSplit
    entry_nr: int
    num_samples: int
    """Of the whole utterance."""

    window: FrameWindow


@final
@dataclass(frozen=True)
class SubsetBlock:
    """Windows whose features are one file."""

    file: Path
    items: tuple[SubsetItem, ...]

    @property
    def num_frames(self) -> int:
        """The frames of all windows."""
        return sum(item.window.num_frames for item in self.items)


def share_budget(available: Sequence[float], budget: float) -> list[float]:
    """Share a budget alike; who has less gives all, and the others more.

    :param available: What each has.
    :param budget: What is needed together.
    :returns: What each gives.
    """
    shares = [0.0] * len(available)
    order = sorted(range(len(available)), key=lambda i: available[i])

    for position, index in enumerate(order):
        shares[index] = min(available[index], budget / (len(order) - position))
        budget -= shares[index]

    return shares


def draw_subset(
    recordings: Sequence[tuple[LabelSplit, Recordings]],
    extractor: FeatureExtractor,
    *,
    hours: float,
    seed: int,
) -> dict[str, list[SubsetItem]]:
    """Draw the windows that are clustered.

    :param recordings: The training split of each source.
    :param extractor: Computes the features.
    :param hours: Of all sources together.
    :param seed: Chooses the windows.
    :returns: By source, in random order.
    """
    counts = [count_all_frames(found.num_samples, extractor.stamp) for _, found in recordings]

    available = [float(num_frames.sum()) for num_frames in counts]
    shares = share_budget(available, hours * 3600 * extractor.stamp.frame_rate)

    drawn = {}

    for index, ((split, found), num_frames, share) in enumerate(zip(recordings, counts, shares)):
        rng = np.random.default_rng([seed, index])
        total, chosen = 0, []

        for entry_nr, window in _draw_windows(num_frames, extractor.max_num_frames, rng):
            if total >= share:
                break

            num_samples = int(found.num_samples[entry_nr])
            chosen.append(SubsetItem(split, entry_nr, num_samples, window))
            total += window.num_frames

        drawn[split.source.name] = chosen

    return drawn


def _draw_windows(
    num_frames: npt.NDArray[np.int64], max_num_frames: int, rng: np.random.Generator
) -> Iterator[tuple[int, FrameWindow]]:
    """Go through the windows of all utterances in random order; those that are not drawn are numbers only."""
    num_windows = -(-num_frames // max_num_frames)
    ends = np.cumsum(num_windows)

    for position in rng.permutation(int(num_windows.sum())):
        entry_nr = int(np.searchsorted(ends, position, side="right"))
        count = int(num_windows[entry_nr])
        index = int(position - ends[entry_nr]) + count

        yield entry_nr, cut_window(int(num_frames[entry_nr]), count, index)


def plan_blocks(
    out: Path,
    subset: Mapping[str, Sequence[SubsetItem]],
    extractor: FeatureExtractor,
    *,
    per_source: bool,
    seed: int,
) -> dict[str, list[SubsetBlock]]:
    """Put windows into blocks, in random order, so that each block of a shared codebook is of all sources.

    :param out: The directory of the labels.
    :param subset: The windows by source.
    :param extractor: Computes the features.
    :param per_source: Whether each source has a codebook of its own.
    :param seed: Chooses the order.
    :returns: By source; under ``""`` if all have the same codebook.
    """
    stamp = extractor.stamp
    max_num_frames = min(_BLOCK_BYTES // (4 * stamp.dim), int(_BLOCK_S * stamp.frame_rate))

    if per_source:
        groups = {name: list(items) for name, items in subset.items()}
    else:
        mixed = [item for items in subset.values() for item in items]
        order = np.random.default_rng([seed, len(subset)]).permutation(len(mixed))
        groups = {"": [mixed[i] for i in order]}

    return {
        group: [
            SubsetBlock(features_dir(out, group) / f"{number:06}.npy", items)
            for number, items in enumerate(_cut(items, max_num_frames))
        ]
        for group, items in groups.items()
    }


def features_dir(out: Path, group: str) -> Path:
    """Return where the features of a codebook lie until it is made."""
    return work_dir(out) / "features" / (group or ".all")


def remove_features(out: Path, group: str) -> None:
    """Remove the features of a codebook that is made."""
    shutil.rmtree(features_dir(out, group), ignore_errors=True)


def is_block_there(block: SubsetBlock, dim: int) -> bool:
    """Say whether a block was written whole; a power cut may leave less."""
    try:
        content = np.load(block.file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False

    return bool(content.ndim == 2 and content.shape[1] == dim and content.dtype == np.float32)


def require_space(out: Path, blocks: Sequence[SubsetBlock], dim: int) -> None:
    """Refuse what the disk has no room for.

    :param out: The directory of the labels.
    :param blocks: Those that are to be written.
    :param dim: Numbers per frame.
    :raises InputError: If less is free than their features take.
    """
    needed = sum(block.num_frames for block in blocks) * dim * np.dtype(np.float32).itemsize
    free = shutil.disk_usage(out).free

    if needed > free:
        raise InputError(
            f"{out}: the features that are clustered take {_show_size(needed)} there until the clusters are made, but "
            f"only {_show_size(free)} are free; free some space, give an OUT on another disk, or lower "
            "`--hours-for-clustering`."
        )


def _show_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.2f} MB"


def write_blocks(
    blocks: Sequence[SubsetBlock],
    extractor: FeatureExtractor,
    fmt: AudioFormat,
    *,
    num_threads: int,
    on_progress: Callable[[int], None],
) -> None:
    """Compute the features of blocks, and write each of them in one piece.

    Windows that cannot be read are left out here, and named when labels are assigned.

    :param blocks: Those of this process.
    :param extractor: Computes the features.
    :param fmt: What recordings may be like.
    :param num_threads: How many windows are computed at once.
    :param on_progress: Called with the frames of each window that is done.
    :raises InputError: If a block cannot be written.
    """

    def compute(work: tuple[SubsetBlock, int]) -> Frames | None:
        item = work[0].items[work[1]]
        read = item.split.reader(item.entry_nr, fmt)

        try:
            frames = extractor.extract(read, item.num_samples, item.window)
        except AudioError:
            return None

        numbers: Frames = frames.cpu().numpy()

        return numbers

    def list_work() -> Iterator[tuple[SubsetBlock, int]]:
        for block in blocks:
            for index in range(len(block.items)):
                yield block, index

    parts: list[Frames] = []

    for (block, index), frames in map_in_order(compute, list_work(), num_threads):
        if frames is not None:
            parts.append(frames)

        if index == len(block.items) - 1:
            content = BytesIO()
            empty = np.zeros((0, extractor.stamp.dim), np.float32)
            np.save(content, np.concatenate(parts) if parts else empty)
            parts.clear()

            save(block.file, content.getvalue())

        on_progress(block.items[index].window.num_frames)


def _cut(items: Sequence[SubsetItem], max_num_frames: int) -> Iterator[tuple[SubsetItem, ...]]:
    held: list[SubsetItem] = []
    num_frames = 0

    for item in items:
        if held and num_frames + item.window.num_frames > max_num_frames:
            yield tuple(held)
            held, num_frames = [], 0

        held.append(item)
        num_frames += item.window.num_frames

    if held:
        yield tuple(held)
