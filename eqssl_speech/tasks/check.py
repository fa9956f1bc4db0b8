"""Reads every recording of a corpus, as ``eqssl check`` does; nothing is printed or written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.audio import AudioFormat
from eqssl_speech.data.check import SourceReport, check_split, require_usable
from eqssl_speech.data.corpus import Corpus, DataSource, load_corpus, select_sources
from eqssl_speech.data.manifest import Manifest, read_manifest
from eqssl_speech.data.phones import phones_file, require_phones_fit
from eqssl_speech.error import InputError
from eqssl_speech.report.sources import SourceRow

_REQUIRED: Final = ("train", "valid")

_OPTIONAL: Final = ("test",)


@final
@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What a corpus is checked for; the defaults are those of a run's ``dataset`` section."""

    fmt: AudioFormat = field(default_factory=AudioFormat)
    """The wanted audio format."""

    min_audio_s: float = 1.0
    """Shorter recordings are bad."""

    max_bad_share: float = 0.4
    """A source with a greater share of bad recordings is unusable. *Range:* [0, 1]."""

    num_workers: int = 2
    """How many files are read at once."""


@final
@dataclass
class CorpusCheck:
    """What was found in a corpus."""

    corpus: Corpus
    """The sources that were checked."""

    reports: list[SourceReport] = field(default_factory=list)
    """One for each split of each source that has a readable manifest."""

    unusable: list[str] = field(default_factory=list)
    """Why sources, or their phone labels, cannot be used, one sentence each; empty if all can be."""

    def list_rows(self, *, alpha: float, train_hours: float | None) -> list[SourceRow]:
        """Describe the sources as a run does when it starts.

        :param alpha: Sources are drawn by ``p_i ~ n_i^alpha``; with 0 all alike. *Range:* [0, 1].
        :param train_hours: Hours of audio that a run will be trained on, if one is planned.
        """
        hours = [self._hours(source, "train") for source in self.corpus.sources]

        weights = [h**alpha if h > 0.0 else 0.0 for h in hours]
        total = sum(weights) or 1.0

        return [
            self._describe(source, h, weight / total, train_hours)
            for source, h, weight in zip(self.corpus.sources, hours, weights)
        ]

    def _describe(
        self, source: DataSource, hours: float, share: float, train_hours: float | None
    ) -> SourceRow:
        passes = None
        if train_hours is not None and hours > 0.0:
            passes = share * train_hours / hours

        return SourceRow(
            name=source.name,
            language=source.language,
            domain=source.domain,
            licence=source.licence,
            hours=hours,
            utterances=sum(r.num_good for r in self._find(source, "train")),
            num_bad=sum(r.num_bad for r in self.reports if r.source == source.name),
            share=share,
            expected_passes=passes,
        )

    def _hours(self, source: DataSource, split: str) -> float:
        return sum(r.duration_s for r in self._find(source, split)) / 3600

    def _find(self, source: DataSource, split: str) -> list[SourceReport]:
        return [r for r in self.reports if (r.source, r.split) == (source.name, split)]


def open_corpus(directory: Path, names: Sequence[str] | None) -> tuple[Corpus, int]:
    """Load a corpus and count what there is to read.

    :param directory: The corpus.
    :param names: The sources to check; ``None`` for all.
    :returns: The corpus, and the number of lines in its manifests; those that cannot be read count nothing.
    :raises InputError: If there is no such corpus or source.
    """
    corpus = select_sources(load_corpus(directory), names)

    num_entries = 0

    for source in corpus.sources:
        for split in _list_splits(source):
            try:
                num_entries += len(read_manifest(source.manifest_file(split)).entries)
            except InputError:
                continue  # Named by :func:`check_corpus`.

    return corpus, num_entries


def check_corpus(
    corpus: Corpus, options: CheckOptions, *, on_progress: Callable[[int], None] | None
) -> CorpusCheck:
    """Decode every recording of every split of every source, in parallel, and read their phone labels, if any.

    :param corpus: The sources.
    :param options: What they are checked for.
    :param on_progress: Called with the number of recordings read since its last call.
    :returns: What was found. A source that cannot be used does not raise, so that the others are read as well.
    """
    check = CorpusCheck(corpus)

    for source in corpus.sources:
        for split in _list_splits(source):
            try:
                manifest, report = check_split(
                    source,
                    split,
                    options.fmt,
                    min_duration_s=options.min_audio_s,
                    full=True,
                    num_workers=options.num_workers,
                    on_progress=on_progress,
                )

                check.reports.append(report)

                require_usable(report, options.max_bad_share)

                _check_phones(source, manifest, report, options.fmt.sample_rate)
            except InputError as ex:
                check.unusable.append(str(ex))

    return check


def _check_phones(
    source: DataSource, manifest: Manifest, report: SourceReport, sample_rate: int
) -> None:
    file = phones_file(source, report.split)

    if file.exists():
        durations_s = {
            entry_nr: num_samples / sample_rate
            for entry_nr, num_samples in zip(report.good, report.num_samples)
        }

        require_phones_fit(file, manifest, durations_s)


def _list_splits(source: DataSource) -> list[str]:
    return [*_REQUIRED, *(s for s in _OPTIONAL if source.manifest_file(s).exists())]
