"""A recording as a package holds it, and how it becomes 16 kHz mono."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from eqssl_speech.data.phones import Phone

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE: Final = 16_000

#: Encodings that libsndfile cannot read, with the sample rate that they have by definition.
FFMPEG_ENCODINGS: Final = {"g722": 16_000, "gsm": 8_000}


class ClipError(Exception):
    """Raised when a recording cannot be decoded; ``reason`` is what the report counts it under."""

    def __init__(self, reason: str, message: str) -> None:
        """
        :param reason: a few words, e.g. ``"empty file"``.
        :param message: one sentence that names the file.
        """
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, order=True)
class Clip:
    """One recording of a package."""

    source: str
    """Name of the data source, e.g. ``ru-festvox``."""

    clip_id: str
    """Name of the recording, unique within the source; also its path in the corpus, without extension."""

    path: Path
    """File that holds the recording."""

    text: str | None = None
    """What is said, as the package writes it; ``None`` where the package has no text."""

    encoding: str = "file"
    """``file`` (whatever libsndfile reads), ``u8`` (headerless unsigned 8 bit, 11,025 Hz), ``g722`` or ``gsm``."""

    offset: int = 0
    """First byte of the recording, where the file holds more than one."""

    num_bytes: int | None = None
    """Bytes of the recording from ``offset`` on; ``None``: up to the end of the file."""

    phones: tuple[Phone, ...] | None = field(default=None, compare=False)
    """What is said, phone by phone, in times of the recording; ``None`` where the package has no such labels."""


def read_bytes(clip: Clip) -> bytes:
    """Read the stored bytes of a recording.

    :raises ClipError: where the file is missing (a dangling link), or the recording is empty.
    """
    try:
        with clip.path.open("rb") as stream:
            stream.seek(clip.offset)
            content = stream.read(-1 if clip.num_bytes is None else clip.num_bytes)
    except OSError as ex:
        raise ClipError("missing file", f"{clip.path} cannot be read: {ex}") from ex
    if not content:
        raise ClipError("empty file", f"{clip.path} is empty.")
    return content


def decode_clip(clip: Clip, content: bytes) -> tuple[FloatArray, int]:
    """Decode the bytes of a recording.

    :returns: mono samples in [-1, 1], *Shape* ``(num_samples,)``, and their sample rate.
    :raises ClipError: where the bytes are no recording.
    """
    if clip.encoding == "u8":
        samples = np.frombuffer(content, dtype=np.uint8).astype(np.float32)
        return (samples - 128.0) / 128.0, 11_025
    if clip.encoding in FFMPEG_ENCODINGS:
        return _decode_with_ffmpeg(clip, content), SAMPLE_RATE
    return _decode_with_libsndfile(clip, content)


def _decode_with_libsndfile(clip: Clip, content: bytes) -> tuple[FloatArray, int]:
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as ex:
        raise ClipError("cannot be decoded", f"{clip.path} cannot be decoded: {ex}") from ex
    mono: FloatArray = samples.mean(axis=1, dtype=np.float32)
    return mono, int(rate)


def _decode_with_ffmpeg(clip: Clip, content: bytes) -> FloatArray:
    rate = FFMPEG_ENCODINGS[clip.encoding]
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-f", clip.encoding]
    command += [] if clip.encoding == "g722" else ["-ar", str(rate)]
    command += ["-i", "pipe:0", "-ac", "1", "-ar", str(rate), "-f", "f32le", "pipe:1"]
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        raise ClipError("cannot be decoded", f"{clip.path} cannot be decoded by ffmpeg: {message}")
    return resample(np.frombuffer(done.stdout, dtype="<f4").astype(np.float32), rate)


def resample(samples: FloatArray, rate: int) -> FloatArray:
    """Resample to 16 kHz with torchaudio's windowed sinc filter.

    :param samples: *Shape* ``(num_samples,)``.
    :param rate: sample rate of ``samples``, in Hz.
    """
    if rate == SAMPLE_RATE or not len(samples):
        return samples
    import torch
    from torchaudio.functional import resample as torchaudio_resample

    out = torchaudio_resample(torch.from_numpy(np.ascontiguousarray(samples)), rate, SAMPLE_RATE)
    array: FloatArray = out.numpy()
    return array


def load_clip(clip: Clip) -> FloatArray:
    """Read, decode, down-mix and resample a recording.

    :returns: samples at 16 kHz, *Shape* ``(num_samples,)``.
    :raises ClipError: where the recording cannot be used.
    """
    samples, rate = decode_clip(clip, read_bytes(clip))
    samples = resample(samples, rate)
    if not np.isfinite(samples).all():
        raise ClipError("not finite", f"{clip.path} holds samples that are not finite.")
    return np.clip(samples, -1.0, 1.0)


def ffmpeg_available() -> bool:
    """Whether an ``ffmpeg`` program is on the search path."""
    return shutil.which("ffmpeg") is not None
