"""The nearest centroid of each frame, in blocks of utterances that are put together in the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from eqssl_speech.data.audio import AudioError, AudioFormat
from eqssl_speech.labels.codebook import Quantizer
from eqssl_speech.labels.features import FeatureExtractor, plan_windows
from eqssl_speech.labels.files import save, work_dir
from eqssl_speech.labels.km import format_line
from eqssl_speech.labels.settings import count_frames
from eqssl_speech.tasks.labels.recordings import LabelSplit, LeftOut, Recordings, map_in_order

_MIN_BLOCK_S: Final = 120.0

_MAX_BLOCK_S: Final = 1800.0

_NUM_BLOCKS: Final = 2000
"""Of about so many blocks a large corpus is made; each is a file until the end."""

_MAX_BLOCK_ENTRIES: Final = 5000


@final
@dataclass(frozen=True)
class SplitCodebook:
    """The codebook of a split."""

    quantizer: Quantizer

    digest: str

    first_label: int
    """The label of its first code."""


@final
@dataclass(frozen=True)
class LabelBlock:
    """Utterances of a split that follow each other."""

    split: LabelSplit
    file: Path
    start: int
    """The first entry of the manifest."""

    stop: int
    """The entry after the last."""

    num_samples: int
    """Of all its utterances."""


@final
@dataclass
class BlockResult:
    """The labels of a block."""

    lines: list[str] = field(default_factory=list)
    """Of each utterance; empty if it could not be read."""

    distance: float = 0.0
    """The squared distances of all frames to their centroids, added up."""

    left_out: list[LeftOut] = field(default_factory=list)


def plan_blocks(
    out: Path, recordings: Sequence[tuple[LabelSplit, Recordings]], sample_rate: int
) -> list[LabelBlock]:
    """Cut splits into blocks: the same on all processes, and when a run goes on.

    :param out: The directory of the labels.
    :param recordings: All splits.
    :param sample_rate: In Hz.
    """
    total_s = sum(int(found.num_samples.sum()) for _, found in recordings) / sample_rate
    block_s = min(max(total_s / _NUM_BLOCKS, _MIN_BLOCK_S), _MAX_BLOCK_S)

    blocks = []

    for split, found in recordings:
        folder = work_dir(out) / "labels" / split.source.name / split.name
        lengths = found.num_samples.tolist()
        start, num_samples = 0, 0

        for index, length in enumerate(lengths):
            num_samples += length
            stop = index + 1
            is_full = num_samples >= block_s * sample_rate or stop - start >= _MAX_BLOCK_ENTRIES

            if is_full or stop == len(lengths):
                file = folder / f"{start:08}.json"
                blocks.append(LabelBlock(split, file, start, stop, num_samples))
                start, num_samples = stop, 0

    return blocks


def is_block_there(block: LabelBlock, codebook: SplitCodebook) -> bool:
    """Say whether a block was labelled with a codebook."""
    return _load(block, codebook) is not None


def read_block(block: LabelBlock, codebook: SplitCodebook) -> BlockResult:
    """Read a block that is there."""
    content = _load(block, codebook)

    assert content is not None

    return BlockResult(
        content["lines"], content["distance"], [LeftOut(*v) for v in content["left_out"]]
    )


def _load(block: LabelBlock, codebook: SplitCodebook) -> dict[str, Any] | None:
    try:
        content = json.loads(block.file.read_bytes())
    except (OSError, ValueError):
        return None

    is_ours = isinstance(content, dict) and content.get("codebook") == codebook.digest

    return content if is_ours and len(content["lines"]) == block.stop - block.start else None


@final
class Assigner:
    """Labels blocks."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        fmt: AudioFormat,
        codebooks: dict[str, SplitCodebook],
        recordings: dict[Path, Recordings],
    ) -> None:
        """
        :param extractor: Computes the features.
        :param fmt: What recordings may be like.
        :param codebooks: By source.
        :param recordings: By the file of the manifest.
        """
        self._extractor = extractor
        self._format = fmt
        self._codebooks = codebooks
        self._recordings = recordings
        self._known = {
            file: {left.entry_nr: left for left in found.left_out}
            for file, found in recordings.items()
        }

    def run(
        self,
        blocks: Sequence[LabelBlock],
        *,
        num_threads: int,
        on_progress: Callable[[int], None],
    ) -> None:
        """Label blocks and write each of them in one piece.

        :param blocks: Those of this process.
        :param num_threads: How many utterances are worked on at once.
        :param on_progress: Called with the samples of each utterance that is done.
        :raises InputError: If a block cannot be written.
        """

        def list_work() -> Iterator[tuple[LabelBlock, int]]:
            for block in blocks:
                for entry_nr in range(block.start, block.stop):
                    yield block, entry_nr

        result = BlockResult()

        for (block, entry_nr), labelled in map_in_order(self._label, list_work(), num_threads):
            if isinstance(labelled, LeftOut):
                result.left_out.append(labelled)
                result.lines.append("")
            else:
                line, distance = labelled
                result.lines.append(line)
                result.distance += distance

            if entry_nr == block.stop - 1:
                self._write(block, result)
                result = BlockResult()

            recordings = self._recordings[block.split.manifest.file]
            on_progress(int(recordings.num_samples[entry_nr]))

    def _label(self, work: tuple[LabelBlock, int]) -> tuple[str, float] | LeftOut:
        block, entry_nr = work
        split = block.split

        known = self._known[split.manifest.file].get(entry_nr)
        if known is not None:
            return known

        codebook = self._codebooks[split.source.name]
        num_samples = int(self._recordings[split.manifest.file].num_samples[entry_nr])
        num_frames = count_frames(num_samples, self._extractor.stamp)
        read = split.reader(entry_nr, self._format)

        parts, total = [], 0.0

        try:
            for window in plan_windows(num_frames, self._extractor.max_num_frames):
                frames = self._extractor.extract(read, num_samples, window)
                labels, distance = codebook.quantizer.assign(frames)

                parts.append(labels.numpy() + codebook.first_label)
                total += distance
        except AudioError as ex:
            return LeftOut(entry_nr, ex.reason, str(ex))

        return format_line(np.concatenate(parts)), total

    def _write(self, block: LabelBlock, result: BlockResult) -> None:
        content = {
            "codebook": self._codebooks[block.split.source.name].digest,
            "lines": result.lines,
            "distance": result.distance,
            "left_out": [(x.entry_nr, x.reason, x.message) for x in result.left_out],
        }

        save(block.file, json.dumps(content).encode())
