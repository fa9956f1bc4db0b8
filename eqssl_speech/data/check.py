"""Checks every file of a source before it is trained on, and says in one sentence why a source cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.audio import AudioError, AudioFormat, Reason, check_header, read_audio
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.manifest import FIRST_ENTRY_LINE, Manifest, read_manifest
from eqssl_speech.error import InputError

_REPLACE: Final = "replace these files or remove their lines"

_REMEDIES: Final[dict[Reason, str]] = {
    "missing": "put the files under the audio root, or correct it on line 1 of the manifest",
    "unreadable": _REPLACE,
    "truncated": _REPLACE,
    "empty": _REPLACE,
    "not finite": _REPLACE,
    "too short": "lower `dataset.min_audio_s` (to 0.62 at the least), or remove their lines",
    "sample rate": "set `dataset.resample=true` to have them resampled",
    "channels": "set `dataset.downmix=true` to have their channels averaged",
    "wrong length": "correct the lengths in the manifest",
}

# Files handed to the threads at a time, so that a list of a million files does not become as many futures.
_CHUNK: Final = 1024


@final
@dataclass(frozen=True)
class BadFile:
    """An utterance that cannot be used."""

    file: Path
    """The audio file."""

    line: int
    """Its line in the manifest, counted from one."""

    reason: Reason
    """The kind of fault."""

    message: str
    """The fault in words, beginning with the file."""


@final
@dataclass
class SourceReport:
    """What was found in one split of one source."""

    source: str
    """The name of the source."""

    split: str
    """The name of the split."""

    manifest_file: Path
    """The manifest that was checked."""

    duration_s: float = 0.0
    """The length of the usable utterances together, in seconds."""

    good: list[int] = field(default_factory=list)
    """The usable utterances, as indices into the manifest's entries, in their order."""

    num_samples: list[int] = field(default_factory=list)
    """The lengths of the usable utterances, in samples at the wanted rate."""

    bad: list[BadFile] = field(default_factory=list)
    """The others, in the order of the manifest."""

    @property
    def num_good(self) -> int:
        """The number of usable utterances."""
        return len(self.good)

    @property
    def num_bad(self) -> int:
        """The number of utterances that cannot be used."""
        return len(self.bad)

    @property
    def num_bad_by_reason(self) -> dict[Reason, int]:
        """The number of utterances that cannot be used for each reason, the commonest first."""
        return dict(Counter(bad.reason for bad in self.bad).most_common())


def check_split(
    source: DataSource,
    split: str,
    fmt: AudioFormat,
    *,
    min_duration_s: float,
    full: bool,
    num_workers: int,
    on_progress: Callable[[int], None] | None,
) -> tuple[Manifest, SourceReport]:
    """Check all files of one split of one source, in parallel; the report does not depend on the number of threads.

    :param source: The source.
    :param split: The split, which has a manifest of that name.
    :param fmt: The wanted format.
    :param min_duration_s: The least length of a usable utterance, in seconds.
    :param full: Whether files are decoded to the end; otherwise only their headers are read.
    :param num_workers: The number of threads; with 1 or less the files are read one after another.
    :param on_progress: Called in the caller's thread with the number of utterances checked since its last call.
    :returns: The manifest, and what was found. Bad files do not raise; see :func:`require_usable`.
    :raises InputError: If the manifest cannot be used.
    """
    manifest = read_manifest(source.manifest_file(split))

    report = SourceReport(source.name, split, manifest.file)

    min_num_samples = max(1, ceil(min_duration_s * fmt.sample_rate))

    check = partial(_check_entry, manifest, fmt, min_num_samples, full)

    for index, result in enumerate(_map(check, range(len(manifest.entries)), num_workers)):
        if isinstance(result, BadFile):
            report.bad.append(result)
        else:
            report.good.append(index)
            report.num_samples.append(result)

        if on_progress is not None:
            on_progress(1)

    report.duration_s = sum(report.num_samples) / fmt.sample_rate

    return manifest, report


def require_usable(report: SourceReport, max_bad_share: float) -> None:
    """Refuse a split that should not be trained on.

    :param report: What :func:`check_split` found.
    :param max_bad_share: The greatest share of utterances that may be left out. *Range:* [0, 1].
    :raises InputError: If a length in the manifest is wrong, as then it belongs to other files; if no utterance is
        usable; or if too many are not.
    """
    wrong = [bad for bad in report.bad if bad.reason == "wrong length"]
    if wrong:
        others = f" (and {len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        raise InputError(
            f"{report.manifest_file}:{wrong[0].line}: the length is wrong{others}: {wrong[0].message}; "
            "correct the line, or make the manifest again from the files as they are."
        )

    total = report.num_good + report.num_bad

    # Of no utterance at all, none is usable either.
    if report.num_good == 0:
        raise InputError(
            f"{report.manifest_file}: the source `{report.source}` is empty, as none of its {total} "
            f"utterances can be used{_describe_bad(report)}."
        )

    if report.num_bad > max_bad_share * total:
        raise InputError(
            f"{report.manifest_file}: {report.num_bad} of the {total} utterances of the source "
            f"`{report.source}` cannot be used{_describe_bad(report)} "
            f"(`dataset.max_bad_share` is {max_bad_share:g})."
        )


def _describe_bad(report: SourceReport) -> str:
    if not report.bad:
        return ""

    counts = report.num_bad_by_reason
    commonest = next(iter(counts))
    example = next(bad for bad in report.bad if bad.reason == commonest)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())

    return f" ({reasons}), such as line {example.line}, {example.message}; {_REMEDIES[commonest]}"


def _check_entry(
    manifest: Manifest, fmt: AudioFormat, min_num_samples: int, full: bool, index: int
) -> int | BadFile:
    entry = manifest.entries[index]
    path = manifest.locate(entry)

    try:
        info = check_header(path, entry, fmt, min_num_samples)

        if full:
            # At its own rate: resampling would find no other fault.
            read_audio(path, entry, replace(fmt, sample_rate=info.sample_rate))
    except AudioError as ex:
        return BadFile(path, index + FIRST_ENTRY_LINE, ex.reason, str(ex))

    return fmt.convert_length(entry.num_samples, info.sample_rate)


def _map(
    check: Callable[[int], int | BadFile], indices: Sequence[int], num_workers: int
) -> Iterator[int | BadFile]:
    if num_workers <= 1:
        yield from map(check, indices)
        return

    # libsndfile works without the interpreter's lock, so that threads decode in parallel.
    with ThreadPoolExecutor(num_workers, thread_name_prefix="eqssl-check") as pool:
        rest = iter(indices)

        while chunk := list(islice(rest, _CHUNK)):
            yield from pool.map(check, chunk)
