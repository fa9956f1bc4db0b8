"""What a corpus has to be labelled: which of its recordings can be read, and how long they are."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, final

import numpy as np
import numpy.typing as npt

from eqssl_speech.data.audio import AudioFormat, read_audio
from eqssl_speech.data.check import check_split
from eqssl_speech.data.corpus import Corpus, DataSource
from eqssl_speech.data.manifest import FIRST_ENTRY_LINE, Manifest, read_manifest
from eqssl_speech.data.phones import Phone, phones_file, read_phones
from eqssl_speech.error import InputError
from eqssl_speech.labels.features import ReadPart
from eqssl_speech.labels.files import save, work_dir
from eqssl_speech.labels.settings import FEATURE_WINDOW

T = TypeVar("T")
R = TypeVar("R")

_LOOKAHEAD: Final = 4
"""How many items a thread may be ahead of what is taken."""


@final
@dataclass(frozen=True)
class LabelSplit:
    """A split of a source."""

    source: DataSource
    name: str
    manifest: Manifest

    def reader(self, entry_nr: int, fmt: AudioFormat) -> ReadPart:
        """Return what reads parts of an utterance; it raises ``AudioError``."""
        entry = self.manifest.entries[entry_nr]
        path = self.manifest.locate(entry)

        def read(start: int, num_samples: int) -> npt.NDArray[np.float32]:
            return read_audio(path, entry, fmt, start=start, num_samples=num_samples)

        return read


@final
@dataclass(frozen=True)
class LeftOut:
    """An utterance that cannot be read, and so has no labels."""

    entry_nr: int
    """Its index in the manifest."""

    reason: str
    """The kind of fault, by which they are counted."""

    message: str
    """The fault in words, beginning with the file."""


@final
@dataclass(frozen=True)
class Recordings:
    """What the headers of a split's recordings say."""

    num_samples: npt.NDArray[np.int64]
    """The length of each utterance at the features' rate; 0 for one that cannot be read. *Shape:* ``(U,)``."""

    left_out: tuple[LeftOut, ...]
    """Those that cannot be read."""


def list_splits(corpus: Corpus, names: Sequence[str]) -> list[LabelSplit]:
    """Read the manifests.

    :param corpus: The sources.
    :param names: The splits, which each source must have.
    :returns: Source by source.
    :raises InputError: If one is missing or cannot be read.
    """
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InputError(f"The split `{name}` is listed twice; list every split once.")

    for source in corpus.sources:
        for name in names:
            if not source.manifest_file(name).is_file():
                raise InputError(
                    f"{source.manifest_file(name)}: the source `{source.name}` has no split `{name}`; make it, or "
                    "choose splits with `--split` and sources with `--source`."
                )

    return [
        LabelSplit(source, name, read_manifest(source.manifest_file(name)))
        for source in corpus.sources
        for name in names
    ]


def check_recordings(out: Path, split: LabelSplit, fmt: AudioFormat, num_threads: int) -> None:
    """Look at the headers of a split's recordings, once: a run that goes on plans with what the first one found.

    :param out: The directory of the labels.
    :param split: The split.
    :param fmt: What recordings may be like.
    :param num_threads: How many are looked at at once.
    :raises InputError: If none of them can be used.
    """
    file = _recordings_file(out, split)
    if file.exists():
        return

    _, report = check_split(
        split.source,
        split.name,
        fmt,
        min_duration_s=FEATURE_WINDOW / fmt.sample_rate,
        full=False,
        num_workers=num_threads,
        on_progress=None,
    )

    if report.num_good == 0:
        raise InputError(
            f"{split.manifest.file}: none of its {report.num_bad} utterances can be used, such as line "
            f"{report.bad[0].line}, {report.bad[0].message}; mend them (`eqssl check` names all), convert them with "
            "`--resample` and `--downmix`, or leave the source out with `--source`."
        )

    lengths = [0] * len(split.manifest.entries)
    for index, length in zip(report.good, report.num_samples):
        lengths[index] = length

    left_out = [(bad.line - FIRST_ENTRY_LINE, bad.reason, bad.message) for bad in report.bad]

    save(file, json.dumps({"num_samples": lengths, "left_out": left_out}).encode())


def load_recordings(out: Path, split: LabelSplit) -> Recordings:
    """Read what :func:`check_recordings` found."""
    content = json.loads(_recordings_file(out, split).read_bytes())

    return Recordings(
        np.array(content["num_samples"], dtype=np.int64),
        tuple(LeftOut(*values) for values in content["left_out"]),
    )


def load_phones(split: LabelSplit) -> list[list[Phone] | None] | None:
    """Read the phones beside a manifest.

    :returns: Those of each utterance that has some, or ``None`` if there are none.
    :raises InputError: If they cannot be read.
    """
    file = phones_file(split.source, split.name)

    return read_phones(file, split.manifest) if file.is_file() else None


def _recordings_file(out: Path, split: LabelSplit) -> Path:
    return work_dir(out) / "recordings" / split.source.name / f"{split.name}.json"


def map_in_order(
    function: Callable[[T], R], items: Iterable[T], num_threads: int
) -> Iterator[tuple[T, R]]:
    """Call a function in threads, and return the results in the order of the items.

    :param function: Called from the threads; what it raises is raised here.
    :param items: Taken as they are needed.
    :param num_threads: With 1, all happens in this thread.
    """
    if num_threads == 1:
        for item in items:
            yield item, function(item)
        return

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="eqssl-labels")
    pending: deque[tuple[T, Future[R]]] = deque()

    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))

            if len(pending) >= _LOOKAHEAD * num_threads:
                first, future = pending.popleft()
                yield first, future.result()

        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
