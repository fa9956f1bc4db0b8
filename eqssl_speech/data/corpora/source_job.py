"""The preparation of one source: its recordings, what became of them, and the files that are written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.corpora.clip import SAMPLE_RATE, Clip
from eqssl_speech.data.corpora.convert import DUPLICATE, KEPT, ConvertTask, Outcome
from eqssl_speech.data.corpora.debian_packages import SpeechPackage
from eqssl_speech.data.corpora.journal import Journal
from eqssl_speech.data.corpora.report import BadRecording, PrepareReport, SourceSummary
from eqssl_speech.data.corpora.splits import SPLITS, assign_split, content_key
from eqssl_speech.data.corpora.text import ClipFilter, normalize_text
from eqssl_speech.data.corpora.workspace import journal_file, remove_scratch
from eqssl_speech.data.manifest import (
    ManifestEntry,
    read_manifest,
    replace_text,
    write_manifest,
)
from eqssl_speech.data.phones import phones_beside, write_phones

MIN_SOURCE_S: Final = 180.0
"""Sources with less audio than this, in seconds, are left out: too little to train on or to validate."""


@final
class SourceJob:
    """The preparation of one source."""

    def __init__(
        self, out: Path, package: SpeechPackage, name: str, clips: list[Clip], fingerprint: str
    ) -> None:
        """
        :param out: directory of the corpus.
        :param package: the package that the source is made of.
        :param name: name of the source.
        :param clips: its recordings.
        :param fingerprint: of everything that the outcomes depend on.
        """
        self.name = name
        self._package = package
        self._clips = {clip.clip_id: clip for clip in sorted(clips)}
        self._directory = out / name
        self._filter = ClipFilter()
        self._journal = Journal(journal_file(out, name), fingerprint)
        known = self._journal.read()
        self._outcomes = {name: known[name] for name in self._clips if name in known}
        self._journal.rewrite(self._outcomes.values())

    def unknown(self) -> list[str]:
        """Names of the recordings that were never looked at."""
        return [name for name in self._clips if name not in self._outcomes]

    def missing(self) -> list[str]:
        """Names of the recordings that are kept and whose file is not there."""
        return [name for name in self._kept() if not self._target(name).is_file()]

    def task(self, name: str) -> ConvertTask:
        """The conversion of a recording."""
        return ConvertTask(self._clips[name], self._target(name), self._filter)

    def record(self, outcome: Outcome) -> None:
        """Remember what became of a recording, on disk too."""
        self._outcomes[outcome.clip_id] = outcome
        self._journal.append(outcome)

    def drop_duplicates(self, seen: set[str]) -> None:
        """Mark the recordings whose audio was seen before.

        :param seen: digests of the audio of the sources before; extended.
        """
        for name in self._clips:
            outcome = self._outcomes[name]
            if outcome.fault in (KEPT, DUPLICATE):
                fault = DUPLICATE if outcome.digest in seen else KEPT
                self._outcomes[name] = Outcome(name, outcome.num_samples, outcome.digest, fault)
                seen.add(outcome.digest)

    def summarize(self, report: PrepareReport) -> bool:
        """Add the source to a report.

        :returns: whether the source is large enough to be kept.
        """
        package, language = self._package, self._package.language_of(self.name)
        summary = SourceSummary(
            self.name, language, package.domain, package.licence, package.has_text
        )
        for split in SPLITS:
            names = self._select(split)
            samples = sum(self._outcomes[name].num_samples for name in names)
            summary.num_utterances[split] = len(names)
            summary.duration_s[split] = samples / SAMPLE_RATE
        self._count_faults(summary)
        minutes = summary.total_duration_s / 60
        if summary.total_duration_s < MIN_SOURCE_S or not all(summary.num_utterances.values()):
            report.left_out_sources[self.name] = (
                f"it has {minutes:.1f} min after the filters, and must have "
                f"{MIN_SOURCE_S / 60:.0f} and an utterance in every split"
            )
            return False
        report.sources.append(summary)
        return True

    def finish(self, *, keep: bool) -> None:
        """Write the manifests, the text and the phone labels, and remove audio that is not wanted.

        :param keep: whether the corpus is to have the source.
        """
        if keep:
            remove_scratch(self._directory)
            for name in set(self._clips) - set(self._kept()):
                self._target(name).unlink(missing_ok=True)
            for split in SPLITS:
                self._write_split(split)
        elif self._directory.is_dir():
            shutil.rmtree(self._directory)
        self._journal.rewrite(self._outcomes.values())

    def _write_split(self, split: str) -> None:
        names = self._select(split)
        if self._package.has_text:
            lines = (f"{self._text(name)}\n" for name in names)
            replace_text(self._directory / f"{split}.wrd", "".join(lines))
        entries = (
            ManifestEntry(f"audio/{name}.flac", self._outcomes[name].num_samples) for name in names
        )
        file = self._directory / f"{split}.tsv"
        write_manifest(file, ".", entries)
        # The audio is neither trimmed nor cut, so that the package's times are those of the files.
        phones = [self._clips[name].phones for name in names]
        if any(phones):
            write_phones(phones_beside(file), read_manifest(file), phones)

    def _count_faults(self, summary: SourceSummary) -> None:
        for name, outcome in sorted(self._outcomes.items()):
            if outcome.fault != KEPT:
                summary.left_out[outcome.fault] += 1
            if outcome.message:
                file = self._clips[name].path
                summary.bad.append(BadRecording(file, outcome.fault, outcome.message))

    def _kept(self) -> list[str]:
        return [name for name in self._clips if self._outcomes[name].fault == KEPT]

    def _select(self, split: str) -> list[str]:
        return [name for name in self._kept() if self._split_of(name) == split]

    def _split_of(self, name: str) -> str:
        return assign_split(content_key(self._text(name), self._outcomes[name].digest))

    def _text(self, name: str) -> str:
        return normalize_text(self._clips[name].text or "")

    def _target(self, name: str) -> Path:
        return self._directory / "audio" / f"{name}.flac"


def drop_duplicates(jobs: Sequence[SourceJob]) -> None:
    """Mark recordings that equal one of an earlier source, or an earlier one of their own source.

    :param jobs: all sources, in the order that decides which recording is kept.
    """
    seen: set[str] = set()
    for job in jobs:
        job.drop_duplicates(seen)
