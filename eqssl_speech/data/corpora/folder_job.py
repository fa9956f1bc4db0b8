"""The preparation of one folder of recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.audio import AudioError, AudioFormat, is_truncated, probe_audio, read_audio
from eqssl_speech.data.corpora.clip import SAMPLE_RATE
from eqssl_speech.data.corpora.convert import DUPLICATE, KEPT, Outcome, write_flac
from eqssl_speech.data.corpora.folder_text import read_folder_text
from eqssl_speech.data.corpora.journal import Journal
from eqssl_speech.data.corpora.report import (
    BadRecording,
    PrepareReport,
    ProgressCallback,
    SourceSummary,
)
from eqssl_speech.data.corpora.splits import SPLITS, audio_digest, content_key, split_keys
from eqssl_speech.data.corpora.text import normalize_text
from eqssl_speech.data.corpora.workspace import journal_file, remove_scratch
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.manifest import ManifestEntry, replace_text, write_manifest

AUDIO_SUFFIXES: Final = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".sph")
)  # fmt: skip
"""Names of files that are taken for recordings, in any case."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How recordings are taken in."""

    valid_share: float = 0.05
    """Share of the recordings for validation, in [0, 1)."""

    test_share: float = 0.0
    """Share of the recordings for testing, in [0, 1)."""

    min_duration_s: float = 0.6
    """Shortest recording, in seconds."""

    resample: bool = False
    """Whether recordings of another sample rate are resampled to 16 kHz; otherwise they are left out."""

    downmix: bool = False
    """Whether several channels are averaged; otherwise such recordings are left out."""

    @property
    def audio_format(self) -> AudioFormat:
        """The wanted format and what may be done to reach it."""
        return AudioFormat(sample_rate=SAMPLE_RATE, resample=self.resample, downmix=self.downmix)


@final
class FolderJob:
    """The preparation of one folder."""

    def __init__(self, source: DataSource, out: Path, options: FolderOptions) -> None:
        """
        :param source: the folder and what is known of it.
        :param out: directory of the corpus.
        :param options: how recordings are taken in.
        """
        self._source = source
        self._options = options
        self._directory = out / source.name
        self._files = _list_audio(source.directory)
        self._texts = read_folder_text(source.directory, self._files)
        settings = (options.min_duration_s, options.resample, options.downmix)
        self._journal = Journal(journal_file(out, source.name), f"folder 1 {settings}")
        self._outcomes: dict[str, Outcome] = {}

    def read(self, num_workers: int, progress: ProgressCallback | None) -> None:
        """Read every recording that was not read before, or has changed since."""
        known = self._journal.read()
        keys = {_journal_key(self._source.directory, name): name for name in self._files}
        self._outcomes = {
            name: _renamed(known[key], name)
            for key, name in keys.items()
            if key in known and (known[key].fault != KEPT or self._has_copy(name))
        }
        self._journal.rewrite(known[key] for key, name in keys.items() if name in self._outcomes)
        todo = {key: name for key, name in keys.items() if name not in self._outcomes}
        done = len(self._outcomes)
        for key, outcome in zip(todo, _map(self._read_one, todo.values(), num_workers)):
            self._outcomes[todo[key]] = outcome
            self._journal.append(_renamed(outcome, key))
            done += 1
            if progress is not None:
                progress(self._source.name, done, len(self._files))
        self._journal.rewrite(_renamed(self._outcomes[name], key) for key, name in keys.items())

    def drop_duplicates(self, seen: set[str]) -> None:
        """Mark the recordings whose audio was seen before.

        :param seen: digests of the audio of the sources before; extended.
        """
        for name in self._files:
            outcome = self._outcomes[name]
            if outcome.fault == KEPT and outcome.digest in seen:
                self._outcomes[name] = Outcome(name, outcome.num_samples, outcome.digest, DUPLICATE)
            elif outcome.fault == KEPT:
                seen.add(outcome.digest)

    def write(self, report: PrepareReport) -> bool:
        """Write the manifests and the text, and report; returns whether anything was usable."""
        summary = SourceSummary(
            self._source.name, self._source.language, self._source.domain, self._source.licence
        )
        for name, outcome in self._outcomes.items():
            if outcome.fault != KEPT:
                summary.left_out[outcome.fault] += 1
                file = self._source.directory / name
                summary.bad.append(BadRecording(file, outcome.fault, outcome.message))
                self._copy(name).unlink(missing_ok=True)
        splits = self._split()
        self._remove_stale(splits)
        if "train" not in splits:
            reasons = ", ".join(f"{n} {why}" for why, n in sorted(summary.left_out.items()))
            why = f"`{self._source.name}` has no usable recording: {reasons or 'no audio files'}"
            report.left_out_sources[self._source.name] = why
            return False
        self._directory.mkdir(parents=True, exist_ok=True)
        remove_scratch(self._directory)
        kept = [name for names in splits.values() for name in names]
        summary.has_text = any(self._texts.get(name) for name in kept)
        if summary.has_text:
            summary.num_without_text = sum(not self._texts.get(name) for name in kept)
        for split, names in splits.items():
            self._write_split(split, names, summary)
        report.sources.append(summary)
        return True

    def _remove_stale(self, splits: dict[str, list[str]]) -> None:
        for split in (s for s in SPLITS if s not in splits):
            for suffix in (".tsv", ".wrd"):
                (self._directory / f"{split}{suffix}").unlink(missing_ok=True)

    def _write_split(self, split: str, names: list[str], summary: SourceSummary) -> None:
        entries = [self._entry(name) for name in names]
        write_manifest(self._directory / f"{split}.tsv", self._source.directory.resolve(), entries)
        if summary.has_text:
            lines = "".join(f"{self._texts.get(name, '')}\n" for name in names)
            replace_text(self._directory / f"{split}.wrd", lines)
        summary.num_utterances[split] = len(names)
        summary.duration_s[split] = sum(e.num_samples for e in entries) / SAMPLE_RATE

    def _entry(self, name: str) -> ManifestEntry:
        copy = self._copy(name)
        path = str(copy.resolve()) if copy.is_file() else name
        return ManifestEntry(path, self._outcomes[name].num_samples)

    def _split(self) -> dict[str, list[str]]:
        keys = {
            name: content_key(normalize_text(self._texts.get(name, "")), outcome.digest)
            for name, outcome in self._outcomes.items()
            if outcome.fault == KEPT
        }
        by_key = split_keys(keys.values(), self._options.valid_share, self._options.test_share)
        splits: dict[str, list[str]] = {}
        for name in sorted(keys):
            splits.setdefault(by_key[keys[name]], []).append(name)
        return splits

    def _read_one(self, name: str) -> Outcome:
        try:
            return self._read_samples(name)
        except AudioError as ex:
            return Outcome(name, 0, "-", ex.reason, str(ex))

    def _read_samples(self, name: str) -> Outcome:
        path, fmt = self._source.directory / name, self._options.audio_format
        info = probe_audio(path)
        if is_truncated(path):
            raise AudioError(path, "truncated", "is cut off")
        samples = read_audio(path, ManifestEntry(name, info.num_samples), fmt)
        min_num_samples = round(self._options.min_duration_s * SAMPLE_RATE)
        if len(samples) < min_num_samples:
            what = f"must have at least {min_num_samples} samples, but has {len(samples)} instead"
            raise AudioError(path, "too short", what)
        if (info.sample_rate, info.num_channels) != (SAMPLE_RATE, 1):
            write_flac(self._copy(name), samples)
        else:
            self._copy(name).unlink(missing_ok=True)
        return Outcome(name, len(samples), audio_digest(samples), KEPT)

    def _copy(self, name: str) -> Path:
        return self._directory / "audio" / f"{name}.flac"

    def _has_copy(self, name: str) -> bool:
        """Whether a recording's converted copy is there, or it needs none."""
        if self._copy(name).is_file():
            return True
        try:
            info = probe_audio(self._source.directory / name)
        except AudioError:
            return True
        return (info.sample_rate, info.num_channels) == (SAMPLE_RATE, 1)


def _list_audio(folder: Path) -> list[str]:
    files = (f for f in folder.rglob("*") if f.suffix.lower() in AUDIO_SUFFIXES and f.is_file())
    return sorted(f.relative_to(folder).as_posix() for f in files)


def _journal_key(folder: Path, name: str) -> str:
    status = (folder / name).stat()
    return f"{name}|{status.st_size}|{status.st_mtime_ns}"


def _renamed(outcome: Outcome, key: str) -> Outcome:
    return Outcome(key, outcome.num_samples, outcome.digest, outcome.fault, outcome.message)


def _map(
    function: Callable[[str], Outcome], names: Iterable[str], num_workers: int
) -> Iterator[Outcome]:
    if num_workers == 0:
        yield from map(function, names)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        yield from pool.map(function, names)
