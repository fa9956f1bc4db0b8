"""Audio files: what their headers say, whether that is what is wanted, and their samples as one channel of float32.

Everything that can be wrong with a file is an :class:`AudioError` with one of a few reasons, so that bad files can be
counted, named and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
import soundfile
from numpy.typing import NDArray

from eqssl_speech.data.manifest import ManifestEntry
from eqssl_speech.data.truncation import is_truncated as is_truncated

Reason: TypeAlias = Literal[
    "missing",
    "unreadable",
    "truncated",
    "empty",
    "too short",
    "sample rate",
    "channels",
    "wrong length",
    "not finite",
]
"""Why a file cannot be used."""

# libsndfile reports this many samples, or nearly so, for a stream that does not say how many it has.
_UNKNOWN_LENGTH: Final = 1 << 62

# The width of torchaudio's windowed sinc in zero crossings, and its default roll-off.
_SINC_WIDTH: Final = 6
_SINC_ROLL_OFF: Final = 0.99


@final
class AudioError(Exception):
    """Raised when an audio file cannot be used."""

    def __init__(self, path: Path, reason: Reason, what: str) -> None:
        """
        :param path: The file.
        :param reason: The kind of fault, by which bad files are counted.
        :param what: The fault, as the rest of a sentence that begins with the file.
        """
        super().__init__(f"{path}: {what}")

        self.path = path
        self.reason: Reason = reason


@final
@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the header of an audio file says."""

    sample_rate: int
    """In Hz."""

    num_channels: int
    """One for mono."""

    num_samples: int
    """The samples of one channel."""


@final
@dataclass(frozen=True, kw_only=True)
class AudioFormat:
    """The format that is wanted, and what may be done to reach it."""

    sample_rate: int = 16_000
    """In Hz; greater than 0."""

    resample: bool = False
    """Whether a file of another sample rate is resampled; otherwise it is an error."""

    downmix: bool = False
    """Whether several channels are averaged into one; otherwise they are an error."""

    def convert_length(self, num_samples: int, sample_rate: int) -> int:
        """Return how many samples a recording has once it is at the wanted sample rate.

        :param num_samples: Its length as stored.
        :param sample_rate: Its sample rate as stored, in Hz.
        :returns: ``ceil(num_samples * self.sample_rate / sample_rate)``.
        """
        return -(-num_samples * self.sample_rate // sample_rate)


def probe_audio(path: Path) -> AudioInfo:
    """Read the header of an audio file; nothing is decoded.

    :param path: The file, of any format that libsndfile knows.
    :returns: What the header says.
    :raises AudioError: If the file is missing, unreadable or empty.
    """
    with _open(path) as stream:
        return _get_info(path, stream)


def check_header(
    path: Path, entry: ManifestEntry, fmt: AudioFormat, min_num_samples: int
) -> AudioInfo:
    """Check a file against its manifest entry and the wanted format; nothing is decoded.

    :param path: The file.
    :param entry: What the manifest says; lengths are in samples of the file as stored.
    :param fmt: The wanted format.
    :param min_num_samples: The least length of an utterance, in samples at the wanted rate.
    :returns: What the header says.
    :raises AudioError: If the file cannot be used, as far as can be told without decoding it.
    """
    info = probe_audio(path)

    if is_truncated(path):
        raise AudioError(path, "truncated", f"is cut off after {info.num_samples} samples")

    _check_format(path, info, fmt)
    _check_length(path, info, entry)

    num_samples = fmt.convert_length(entry.num_samples, info.sample_rate)
    if num_samples < min_num_samples:
        raise AudioError(
            path,
            "too short",
            f"must have at least {min_num_samples} samples at {fmt.sample_rate} Hz, "
            f"but has {num_samples} instead",
        )

    return info


def read_audio(
    path: Path,
    entry: ManifestEntry,
    fmt: AudioFormat,
    *,
    start: int = 0,
    num_samples: int | None = None,
) -> NDArray[np.float32]:
    """Decode an utterance, or the part of it that is needed.

    A part that is resampled equals the same part of the whole utterance resampled.

    :param path: The file.
    :param entry: The utterance; its lengths are in samples of the file as stored.
    :param fmt: The wanted format.
    :param start: The first sample of the part, at the wanted rate, counted from the start of the utterance.
    :param num_samples: The length of the part at the wanted rate; ``None`` for all to the end.
    :returns: The samples of one channel in [-1, 1]. *Shape:* :math:`(S)`.
    :raises AudioError: If the file cannot be used, or if fewer samples can be decoded than the manifest promises.
    :raises ValueError: If the part is not within the utterance.
    """
    with _open(path) as stream:
        info = _get_info(path, stream)

        _check_format(path, info, fmt)
        _check_length(path, info, entry)

        length = fmt.convert_length(entry.num_samples, info.sample_rate)
        stop = length if num_samples is None else start + num_samples
        if not 0 <= start <= stop <= length:
            raise ValueError(
                f"The part from {start} to {stop} must be within the {length} samples of {path}."
            )

        if info.sample_rate == fmt.sample_rate:
            samples = _decode(path, stream, entry.offset + start, stop - start)
        else:
            samples = _decode_resampled(path, stream, entry, fmt, start, stop)

    if not np.isfinite(samples).all():
        raise AudioError(path, "not finite", "holds samples that are infinite or not a number")

    return samples


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(path, "missing", "does not exist") from None
    except (OSError, ValueError) as ex:
        # The value error: a null character in the name.
        raise AudioError(path, "unreadable", f"cannot be opened ({ex})") from None

    if not S_ISREG(status.st_mode):
        raise AudioError(path, "unreadable", "is not a file")
    if status.st_size == 0:
        raise AudioError(path, "empty", "has no bytes")

    try:
        # As bytes, which names that are not UTF-8 can be too.
        stream = soundfile.SoundFile(os.fsencode(path))
    except (OSError, RuntimeError, TypeError) as ex:
        # The type error: a file named .raw, which says nothing of its format.
        if is_truncated(path):
            raise AudioError(path, "truncated", f"is cut off ({_quote(ex)})") from None
        raise AudioError(path, "unreadable", f"is not audio ({_quote(ex)})") from None

    with stream:
        yield stream


def _get_info(path: Path, stream: Any) -> AudioInfo:
    info = AudioInfo(stream.samplerate, stream.channels, stream.frames)

    if info.num_samples <= 0:
        if is_truncated(path):
            raise AudioError(path, "truncated", "is cut off before its first sample")
        raise AudioError(path, "empty", "has no samples")
    if info.num_samples >= _UNKNOWN_LENGTH:
        raise AudioError(path, "unreadable", "does not say how many samples it has")

    return info


def _check_format(path: Path, info: AudioInfo, fmt: AudioFormat) -> None:
    if info.sample_rate != fmt.sample_rate and not fmt.resample:
        raise AudioError(
            path,
            "sample rate",
            f"must have {fmt.sample_rate} Hz, but has {info.sample_rate} Hz instead",
        )
    if info.num_channels != 1 and not fmt.downmix:
        raise AudioError(
            path, "channels", f"must have 1 channel, but has {info.num_channels} instead"
        )


def _check_length(path: Path, info: AudioInfo, entry: ManifestEntry) -> None:
    stop = entry.offset + entry.num_samples

    if stop == info.num_samples or (entry.is_slice and stop < info.num_samples):
        return

    if is_truncated(path):
        raise AudioError(path, "truncated", f"is cut off after {info.num_samples} samples")

    wanted = f"asks for those from {entry.offset} to {stop}" if entry.is_slice else f"says {stop}"

    raise AudioError(
        path, "wrong length", f"has {info.num_samples} samples, but the manifest {wanted}"
    )


def _decode(path: Path, stream: Any, start: int, num_samples: int) -> NDArray[np.float32]:
    try:
        stream.seek(start)
        samples = stream.read(num_samples, dtype="float32", always_2d=True)
    except RuntimeError as ex:
        raise _diagnose(path, f"cannot be decoded ({_quote(ex)})") from None

    if len(samples) < num_samples:
        raise _diagnose(
            path, f"yields {len(samples)} samples where {num_samples} from {start} were asked for"
        )

    # (S, C) -> (S)
    mono: NDArray[np.float32] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)

    return np.ascontiguousarray(mono, dtype=np.float32)


def _decode_resampled(
    path: Path, stream: Any, entry: ManifestEntry, fmt: AudioFormat, start: int, stop: int
) -> NDArray[np.float32]:
    import torch  # Only here, as plain reading needs neither.
    from torchaudio.functional import resample

    # Blocks of `old` stored samples become blocks of `new`; the filter sees the same at the start of each.
    divisor = gcd(stream.samplerate, fmt.sample_rate)
    old, new = stream.samplerate // divisor, fmt.sample_rate // divisor

    width = ceil(_SINC_WIDTH * old / (min(old, new) * _SINC_ROLL_OFF))
    margin = ceil(width / old) + 1

    first = max(0, start // new - margin)
    last = min(entry.num_samples, (ceil(stop / new) + margin) * old)

    stored = _decode(path, stream, entry.offset + first * old, last - first * old)

    samples = resample(torch.from_numpy(stored), old, new).numpy()

    part: NDArray[np.float32] = samples[start - first * new : stop - first * new]

    return part


def _diagnose(path: Path, what: str) -> AudioError:
    """Tell a file that was cut off from one with damage in the middle, once decoding has failed."""
    if is_truncated(path) or _exhausts_file(path):
        return AudioError(path, "truncated", f"{what}; it is cut off")

    return AudioError(path, "unreadable", f"{what}; it is damaged")


def _exhausts_file(path: Path) -> bool:
    # Containers that end with a mark were found to be whole; for others: did the decoder want to read past the end?
    with path.open("rb") as raw:
        if raw.read(4) in (b"RIFF", b"OggS"):
            return False

        raw.seek(0)
        try:
            with soundfile.SoundFile(raw) as stream:
                for _ in stream.blocks(blocksize=4096, dtype="float32"):
                    pass
        except RuntimeError:
            pass

        return raw.read(1) == b""


def _quote(ex: Exception) -> str:
    # libsndfile's own words, without the path that soundfile puts before them.
    return str(ex).rpartition(": ")[2].strip().rstrip(".")
