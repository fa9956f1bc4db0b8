"""All stages of making labels, shared by the processes and resumed where they were stopped.

Whatever is done lies on disk, whole or not at all, and is planned from what lies there: so a run that was killed goes
on to the files that it would have written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, final

from eqssl_speech.data.audio import AudioFormat
from eqssl_speech.labels.codebook import Codebook, Quantizer, codebook_file, read_codebook
from eqssl_speech.labels.features import FeatureExtractor, one_thread_per_operator
from eqssl_speech.labels.files import work_dir
from eqssl_speech.labels.kmeans import fit_codebook, require_frames
from eqssl_speech.labels.settings import LabelSettings
from eqssl_speech.labels.stamp import (
    CodebookStamp,
    LabelStamp,
    SplitStamp,
    digest_manifest,
    read_stamp,
    write_stamp,
)
from eqssl_speech.tasks.evaluate.gang import Gang
from eqssl_speech.tasks.labels import assignment, subset
from eqssl_speech.tasks.labels.existing import is_begun, require_empty, require_same
from eqssl_speech.tasks.labels.merging import merge
from eqssl_speech.tasks.labels.recordings import (
    LabelSplit,
    Recordings,
    check_recordings,
    load_phones,
    load_recordings,
)
from eqssl_speech.tasks.labels.report import LabelReport, read_report

CLUSTERED_SPLIT: Final = "train"
"""The split that codebooks are made of."""


class LabelDisplay(Protocol):
    """Shows how far the work is."""

    def audio(
        self, phase: str, num_recordings: int, audio_s: float
    ) -> AbstractContextManager[Callable[[float], None]]:
        """Begin a phase that goes through recordings.

        :returns: Gives what is called with the seconds of each recording that is done.
        """

    def steps(self, phase: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Begin a phase of steps.

        :returns: Gives what is called with the steps done and how many there are at the most.
        """


@final
@dataclass(frozen=True)
class GivenCodebooks:
    """Codebooks of other labels."""

    directory: Path
    stamp: LabelStamp


@final
@dataclass(frozen=True)
class LabelJob:
    """Makes the labels of some splits of some sources."""

    out: Path
    """Where they go; all processes must see it."""

    splits: Sequence[LabelSplit]

    settings: LabelSettings

    extractor: FeatureExtractor

    given: GivenCodebooks | None = None
    """What labels are made with instead of clustering."""

    num_threads: int = 1
    """How many recordings a process works on at once."""

    gang: Gang = field(default_factory=Gang)

    def run(self, display: LabelDisplay) -> LabelReport:
        """Make them, or what is missing of them.

        :param display: Shows how far the work is.
        :returns: How good they are; the same on all processes.
        :raises InputError: If the directory holds other labels, if something cannot be read or written, or if the
            model or the audio does not suffice.
        """
        if self._open():
            return read_report(self.out)

        with one_thread_per_operator():
            recordings = self._check_recordings()
            codebooks = self._make_codebooks(recordings, display)

            blocks = self._assign(recordings, codebooks, display)

        if self.gang.rank == 0:
            merge(self.out, self._describe(codebooks), blocks, self._split_codebooks(codebooks))

            shutil.rmtree(work_dir(self.out), ignore_errors=True)

        self._meet()

        return read_report(self.out)

    @property
    def _format(self) -> AudioFormat:
        settings = self.settings

        return AudioFormat(
            sample_rate=settings.features.sample_rate,
            resample=settings.resample,
            downmix=settings.downmix,
        )

    def _meet(self) -> None:
        self.gang.gather([self.gang.rank])

    def _open(self) -> bool:
        """Compare what is asked for with what is there; return whether it is finished."""
        stamp = read_stamp(self.out)
        wanted = self._describe({})

        if stamp is None:
            require_empty(self.out)
        elif stamp != wanted and not stamp.is_finished and not is_begun(self.out):
            # What was refused when it was planned: it may be asked for otherwise now.
            stamp = None
        else:
            require_same(self.out, stamp, wanted)

        # Before anything is written.
        self._meet()

        if self.gang.rank == 0:
            if stamp is None:
                shutil.rmtree(work_dir(self.out), ignore_errors=True)
                write_stamp(self.out, wanted)
            elif stamp.is_finished:
                shutil.rmtree(work_dir(self.out), ignore_errors=True)

        self._meet()

        return stamp is not None and stamp.is_finished

    def _describe(self, codebooks: Mapping[str, Codebook]) -> LabelStamp:
        splits: dict[str, dict[str, SplitStamp]] = {}

        for split in self.splits:
            digest = digest_manifest(split.manifest)
            stamp = SplitStamp(digest, len(split.manifest.entries))
            splits.setdefault(split.source.name, {})[split.name] = stamp

        return LabelStamp(self.settings, splits, stamp_codebooks(codebooks))

    def _check_recordings(self) -> list[tuple[LabelSplit, Recordings]]:
        for split in self.gang.deal(self.splits):
            # Their mistakes are found before the work, not after it.
            load_phones(split)

            check_recordings(self.out, split, self._format, self.num_threads)

        self._meet()

        return [(split, load_recordings(self.out, split)) for split in self.splits]

    def _make_codebooks(
        self, recordings: Sequence[tuple[LabelSplit, Recordings]], display: LabelDisplay
    ) -> dict[str, Codebook]:
        if self.given is not None:
            groups = list(self.given.stamp.codebooks)

            if self.gang.rank == 0:
                for group in groups:
                    read_codebook(codebook_file(self.given.directory, group)).write(
                        codebook_file(self.out, group)
                    )
        elif self.settings.per_source:
            groups = list(dict.fromkeys(split.source.name for split in self.splits))
        else:
            groups = [""]

        missing = [group for group in groups if not codebook_file(self.out, group).exists()]

        # Before anything is written.
        self._meet()

        if missing and self.given is None:
            self._cluster(recordings, missing, display)

        self._meet()

        return {group: read_codebook(codebook_file(self.out, group)) for group in groups}

    def _cluster(
        self,
        recordings: Sequence[tuple[LabelSplit, Recordings]],
        missing: Sequence[str],
        display: LabelDisplay,
    ) -> None:
        settings, stamp = self.settings, self.extractor.stamp
        assert settings.hours is not None
        assert settings.seed is not None

        clustered = [(split, r) for split, r in recordings if split.name == CLUSTERED_SPLIT]
        drawn = subset.draw_subset(
            clustered, self.extractor, hours=settings.hours, seed=settings.seed
        )
        groups = subset.plan_blocks(
            self.out, drawn, self.extractor, per_source=settings.per_source, seed=settings.seed
        )

        # Before hours of work; again later, as not all may be readable.
        for group in missing:
            num_frames = sum(block.num_frames for block in groups[group])
            require_frames(num_frames, settings.num_clusters, group)

        self._write_features([b for group in missing for b in groups[group]], display)
        self._meet()

        if self.gang.rank > 0:
            return

        for group in missing:
            title = f"clusters of {group}" if group else "clusters"

            with display.steps(title) as on_progress:
                codebook = fit_codebook(
                    [block.file for block in groups[group]],
                    stamp,
                    settings.num_clusters,
                    seed=[settings.seed, list(groups).index(group)],
                    group=group,
                    on_progress=on_progress,
                )

            codebook.write(codebook_file(self.out, group))
            subset.remove_features(self.out, group)

    def _write_features(self, blocks: Sequence[subset.SubsetBlock], display: LabelDisplay) -> None:
        stamp = self.extractor.stamp

        lacking = [block for block in blocks if not subset.is_block_there(block, stamp.dim)]
        subset.require_space(self.out, lacking, stamp.dim)

        # Before anything is written.
        self._meet()

        files = {block.file for block in lacking}
        ours = [block for block in self.gang.deal(blocks) if block.file in files]
        num_windows = sum(len(block.items) for block in ours)
        audio_s = sum(block.num_frames for block in ours) / stamp.frame_rate

        with display.audio("features to cluster", num_windows, audio_s) as on_progress:
            subset.write_blocks(
                ours,
                self.extractor,
                self._format,
                num_threads=self.num_threads,
                on_progress=lambda num_frames: on_progress(num_frames / stamp.frame_rate),
            )

    def _assign(
        self,
        recordings: Sequence[tuple[LabelSplit, Recordings]],
        codebooks: Mapping[str, Codebook],
        display: LabelDisplay,
    ) -> list[assignment.LabelBlock]:
        sample_rate = self.extractor.stamp.sample_rate
        by_source = self._split_codebooks(codebooks)

        blocks = assignment.plan_blocks(self.out, recordings, sample_rate)
        ours = [
            block
            for block in self.gang.deal(blocks)
            if not assignment.is_block_there(block, by_source[block.split.source.name])
        ]

        assigner = assignment.Assigner(
            self.extractor,
            self._format,
            by_source,
            {split.manifest.file: found for split, found in recordings},
        )

        num_entries = sum(block.stop - block.start for block in ours)
        audio_s = sum(block.num_samples for block in ours) / sample_rate

        with display.audio("labels", num_entries, audio_s) as on_progress:
            assigner.run(
                ours,
                num_threads=self.num_threads,
                on_progress=lambda num_samples: on_progress(num_samples / sample_rate),
            )

        self._meet()

        return blocks

    def _split_codebooks(
        self, codebooks: Mapping[str, Codebook]
    ) -> dict[str, assignment.SplitCodebook]:
        stamps = stamp_codebooks(codebooks)

        made = {
            group: assignment.SplitCodebook(
                Quantizer(codebook, self.extractor.device),
                codebook.digest,
                stamps[group].first_label,
            )
            for group, codebook in codebooks.items()
        }

        names = dict.fromkeys(split.source.name for split in self.splits)

        return {name: made[name if self.settings.per_source else ""] for name in names}


def stamp_codebooks(codebooks: Mapping[str, Codebook]) -> dict[str, CodebookStamp]:
    """Give each codebook labels of its own.

    :param codebooks: By source, or under ``""``; their order is that of the labels.
    """
    stamps = {}
    first_label = 0

    for group, codebook in codebooks.items():
        stamps[group] = CodebookStamp(codebook.digest, codebook.num_codes, first_label)
        first_label += codebook.num_codes

    return stamps
