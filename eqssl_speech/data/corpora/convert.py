"""Conversion of recordings to the files of a corpus: parallel, and safe to interrupt at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import SAMPLE_RATE, Clip, ClipError, FloatArray, load_clip
from eqssl_speech.data.corpora.splits import audio_digest, quantize
from eqssl_speech.data.corpora.text import ClipFilter

KEPT: Final = ""
"""The fault of a recording without one."""

DUPLICATE: Final = "duplicate"
"""The fault of a recording that another one equals, sample by sample."""


@dataclass(frozen=True)
class Outcome:
    """What became of a recording."""

    clip_id: str
    """Name of the recording, unique within the source."""

    num_samples: int
    """Its length at 16 kHz; 0 where it cannot be decoded."""

    digest: str
    """Hash of its samples at 16 kHz; ``-`` where it cannot be decoded."""

    fault: str
    """Why it is left out, or :data:`KEPT`."""

    message: str = ""
    """One sentence, where the recording cannot be decoded."""


@dataclass(frozen=True)
class ConvertTask:
    """A recording to convert."""

    clip: Clip
    """The recording."""

    target: Path
    """The FLAC file to write."""

    clip_filter: ClipFilter
    """What the recording must satisfy."""


def convert_clip(task: ConvertTask) -> Outcome:
    """Decode a recording and, when it passes the filters, write it as 16 kHz mono FLAC.

    :param task: the recording and where it goes.
    :returns: what became of it; the file is there, complete, exactly when there is no fault.
    """
    clip = task.clip
    try:
        samples = load_clip(clip)
    except ClipError as ex:
        # Without the directory, which is another one on every machine.
        message = str(ex).replace(str(clip.path), clip.path.name)
        return Outcome(clip.clip_id, 0, "-", ex.reason, message)
    fault = task.clip_filter.find_fault(len(samples) / SAMPLE_RATE, clip.text)
    if fault is None:
        write_flac(task.target, samples)
    return Outcome(clip.clip_id, len(samples), audio_digest(samples), fault or KEPT)


def write_flac(file: Path, samples: FloatArray) -> None:
    """Write 16-bit FLAC in one piece: an interrupted program leaves the whole file or none.

    :param file: the file to write; its directory is made.
    :param samples: mono, 16 kHz, *Shape* ``(num_samples,)``.
    """
    import soundfile

    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        soundfile.write(scratch, quantize(samples), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def convert_all(tasks: Sequence[ConvertTask], num_workers: int) -> Iterator[Outcome]:
    """Convert recordings.

    :param tasks: the recordings.
    :param num_workers: processes to use; 0 works in this process.
    :returns: an outcome per task, in their order.
    """
    if num_workers == 0 or len(tasks) < 32:
        yield from map(convert_clip, tasks)
        return
    # `spawn`, because torch's and fairseq2's threads do not survive a fork.
    with ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker) as pool:
        yield from pool.map(convert_clip, tasks, chunksize=16)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)  # The processes are the parallelism.
