"""Audio files: what their headers say, whether that is what is wanted, and their samples as one channel of float32.

Everything that can be wrong with a file is an :class:`AudioError` with one of a few reasons, so that bad files can be
counted, named and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
import soundfile
from numpy.typing import NDArray

from eqssl_speech.data.manifest import ManifestEntry
from eqssl_speech.data.resampling import can_resample, find_stored_part, resample_part
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

# No codec holds more in a byte: FLAC's longest frame of silence is 65,535 samples in 12 bytes, others hold less.
_MAX_SAMPLES_PER_BYTE: Final = 8_192

# What is decoded at a time, over all channels; whole files but for the longest, as MP3 is not seamless between blocks.
_BLOCK_SIZE: Final = 1 << 24

# Far beyond 32-bit integers that were stored as floats; above, the variance of a batch overflows.
_MAX_AMPLITUDE: Final = 2.0**32


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
    with _open(path) as stream:
        info = _get_info(path, stream)

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
    :returns: The samples of one channel, which formats of integers keep in [-1, 1]. *Shape:* :math:`(S)`.
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

    _check_samples(path, samples)

    return samples


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file; whatever the operating system then refuses, also later, is a fault of the file."""
    try:
        with _open_stream(path) as stream:
            yield stream
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(path, "missing", "does not exist") from None
    except OSError as ex:
        raise AudioError(path, "unreadable", f"cannot be read ({ex.strerror or ex})") from None


def _open_stream(path: Path) -> Any:
    try:
        status = path.stat()
    except ValueError as ex:
        raise AudioError(path, "unreadable", f"has a name that no file can have ({ex})") from None

    if not S_ISREG(status.st_mode):
        raise AudioError(path, "unreadable", "is not a file")
    if status.st_size == 0:
        raise AudioError(path, "empty", "has no bytes")

    try:
        # As bytes, which names that are not UTF-8 can be too.
        return soundfile.SoundFile(os.fsencode(path))
    except (RuntimeError, TypeError) as ex:
        # The type error: a file named .raw, which says nothing of its format.
        if is_truncated(path):
            raise AudioError(path, "truncated", f"is cut off ({_quote(ex)})") from None
        raise AudioError(path, "unreadable", f"is not audio ({_quote(ex)})") from None


def _get_info(path: Path, stream: Any) -> AudioInfo:
    info = AudioInfo(stream.samplerate, stream.channels, stream.frames)

    if info.num_samples <= 0:
        if is_truncated(path):
            raise AudioError(path, "truncated", "is cut off before its first sample")
        raise AudioError(path, "empty", "has no samples")
    if info.num_samples >= _UNKNOWN_LENGTH:
        raise AudioError(path, "unreadable", "does not say how many samples it has")

    num_bytes = path.stat().st_size
    if info.num_samples > num_bytes * _MAX_SAMPLES_PER_BYTE:
        raise AudioError(
            path,
            "unreadable",
            f"promises {info.num_samples} samples, which its {num_bytes} bytes cannot hold; it is damaged or cut off",
        )

    return info


def _check_format(path: Path, info: AudioInfo, fmt: AudioFormat) -> None:
    if info.sample_rate != fmt.sample_rate and not fmt.resample:
        raise AudioError(
            path,
            "sample rate",
            f"must have {fmt.sample_rate} Hz, but has {info.sample_rate} Hz instead",
        )
    if info.sample_rate != fmt.sample_rate and not can_resample(info.sample_rate, fmt.sample_rate):
        raise AudioError(
            path,
            "unreadable",
            f"has {info.sample_rate} Hz, from which it cannot be brought to {fmt.sample_rate} Hz here; "
            "if its header is right, resample it with another program",
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


def _check_samples(path: Path, samples: NDArray[np.float32]) -> None:
    # Not a number if any sample is none.
    peak = float(np.abs(samples).max(initial=0))

    if not isfinite(peak):
        raise AudioError(path, "not finite", "holds samples that are infinite or not a number")
    if peak > _MAX_AMPLITUDE:
        raise AudioError(
            path, "unreadable", f"holds a sample as large as {peak:.3g}; it is damaged"
        )


def _decode(path: Path, stream: Any, start: int, num_samples: int) -> NDArray[np.float32]:
    # In blocks, as memory for all that a header promises may not be there.
    blocks = [np.zeros(0, np.float32)]
    num_left = num_samples

    try:
        if start > 0 and stream.format == "OGG":
            # Where libvorbis could not be set up, libsndfile 1.2.2 would crash, as it skips to a place without a look.
            if len(stream.read(1)) == 0:
                raise _diagnose(path, "yields no sample")
            # It also finds a wrong place from one that is not the start.
            stream.seek(0)

        stream.seek(start)

        while num_left > 0:
            block_size = min(num_left, _num_block_samples(stream))
            samples = stream.read(block_size, dtype="float32", always_2d=True)

            blocks.append(_to_mono(samples))
            num_left -= len(samples)
            if len(samples) < block_size:
                break
    except RuntimeError as ex:
        raise _diagnose(path, f"cannot be decoded ({_quote(ex)})") from None

    if num_left > 0:
        raise _diagnose(
            path,
            f"yields {num_samples - num_left} samples where {num_samples} from {start} were asked for",
        )

    return blocks[1] if len(blocks) == 2 else np.concatenate(blocks)


def _num_block_samples(stream: Any) -> int:
    return max(1, _BLOCK_SIZE // stream.channels)  # type: ignore[no-any-return]


def _to_mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    # What overflows here is found, and named, as a sample that is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        # (S, C) -> (S)
        mono: NDArray[np.float32] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)

    return np.ascontiguousarray(mono, dtype=np.float32)


def _decode_resampled(
    path: Path, stream: Any, entry: ManifestEntry, fmt: AudioFormat, start: int, stop: int
) -> NDArray[np.float32]:
    rates = (stream.samplerate, fmt.sample_rate)

    first, last = find_stored_part(start, stop, *rates)
    last = min(entry.num_samples, last)

    stored = _decode(path, stream, entry.offset + first, last - first)

    return resample_part(stored, first, start, stop, *rates)


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
                # Not `blocks`, which asks for all that the header promises, past the end as well.
                while len(stream.read(_num_block_samples(stream), dtype="float32")) > 0:
                    pass
        except RuntimeError:
            pass

        return raw.read(1) == b""


def _quote(ex: Exception) -> str:
    # libsndfile's own words, without the path that soundfile puts before them.
    return str(ex).rpartition(": ")[2].strip().rstrip(".")
