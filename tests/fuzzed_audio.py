"""Audio files with every kind of damage, each made again from a seed and its number."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from fuzzed_headers import (
    FieldKind,
    flip_bits,
    list_fields,
    mend_checksums,
    set_field,
)

_SUFFIXES = ["", ".wav", ".WAV", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au", ".sph", ".caf"]
_SUFFIXES += [".raw", ".txt", ".vox", ".gsm", ".sd2", ".m4a"]

# Suffix, container and coding; what speech is mostly kept in, more than once.
_FORMATS = [
    *[("wav", "WAV", "PCM_16")] * 6,
    *[("wav", "WAV", coding) for coding in ("PCM_24", "PCM_32", "PCM_U8", "ULAW", "ALAW")],
    *[("wav", "WAV", coding) for coding in ("IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32")],
    *[("wav", "WAV", "FLOAT")] * 4,
    *[("wav", "WAV", "DOUBLE")] * 2,
    *[("wav", container, "PCM_16") for container in ("WAVEX", "RF64", "W64")],
    *[("flac", "FLAC", "PCM_16")] * 5,
    *[("flac", "FLAC", "PCM_24")] * 2,
    *[("ogg", "OGG", "VORBIS")] * 6,
    *[("opus", "OGG", "OPUS")] * 4,
    *[("mp3", "MP3", "MPEG_LAYER_III")] * 6,
    *[("aiff", "AIFF", "PCM_16"), ("au", "AU", "PCM_16"), ("sph", "NIST", "PCM_16")],
    *[("caf", "CAF", "PCM_16"), ("caf", "CAF", "ALAC_16")],
]


@dataclass(frozen=True)
class GoodFile:
    """What damaged files are made of."""

    suffix: str
    content: bytes
    num_samples: int


@dataclass(frozen=True)
class FuzzedFile:
    """A damaged file."""

    kind: str
    """How it was damaged."""

    name: str
    """Its name."""

    content: bytes

    num_samples: int
    """What a manifest says that was made before the damage."""


def write_good_files(folder: Path) -> None:
    """Write files of 0.3 to 2 s of every format that libsndfile knows and that holds speech."""
    known = soundfile.available_formats()

    for nr, (suffix, container, coding) in enumerate(_FORMATS):
        # Old versions have no MP3.
        if container not in known or coding not in soundfile.available_subtypes(container):
            continue

        rng = np.random.default_rng(nr)
        sample_rate = int(rng.choice([16_000, 16_000, 8_000, 48_000]))
        num_channels = int(rng.choice([1, 1, 1, 2])) if coding not in ("GSM610", "G721_32") else 1

        time = np.arange(int(rng.uniform(0.3, 2.0) * sample_rate))[:, None] / sample_rate
        voice = np.sin(2 * np.pi * rng.uniform(100, 300) * time + 5 * np.sin(4 * time))
        noise = rng.standard_normal((len(time), num_channels))
        samples = (0.4 * voice + 0.02 * noise).astype(np.float32)

        file = folder / f"{nr:02}.{suffix}"
        soundfile.write(file, samples, sample_rate, format=container, subtype=coding)
        # An OGG stream has a random number, and files of floats the time of their making.
        file.write_bytes(_make_reproducible(file.read_bytes()))


def read_good_files(folder: Path) -> list[GoodFile]:
    """Read what :func:`write_good_files` wrote."""
    return [
        GoodFile(file.suffix, file.read_bytes(), int(soundfile.info(file).frames))
        for file in sorted(folder.iterdir())
    ]


def _make_reproducible(content: bytes) -> bytes:
    if content.startswith(b"OggS"):
        pages = content.split(b"OggS")
        return mend_checksums(b"OggS".join(p[:10] + b"seed" + p[14:] if p else p for p in pages))

    at = content.find(b"PEAK")

    return content if at < 0 else content[: at + 12] + bytes(4) + content[at + 16 :]


def make_fuzzed_file(good_files: list[GoodFile], seed: int, index: int) -> FuzzedFile:
    """Make a damaged file, always the same for the same arguments.

    :param good_files: What it is made of.
    :param seed: Chooses all files.
    :param index: The number of the file.
    """
    rng = random.Random(f"{seed}/{index}")

    # In turn, so that each kind has its share of however few files.
    kind = list(_KINDS)[index % len(_KINDS)]

    good = rng.choice(good_files)
    suffix, content = _KINDS[kind](rng, good, good_files)

    return FuzzedFile(kind, f"{index:06}{suffix}", content, good.num_samples)


_Result = tuple[str, bytes]


def _flip_few_or_many(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    count = int(10 ** rng.uniform(0, 3))

    return good.suffix, flip_bits(rng, good.content, count, len(good.content))


def _flip_in_header(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    return good.suffix, flip_bits(rng, good.content, rng.randint(1, 16), 128)


def _flip_behind_checksums(rng: random.Random, good: GoodFile, all_: list[GoodFile]) -> _Result:
    good = rng.choice([g for g in all_ if g.content.startswith(b"OggS")])
    count = int(10 ** rng.uniform(0, 2))
    reach = rng.choice([200, len(good.content)])

    return good.suffix, mend_checksums(flip_bits(rng, good.content, count, reach))


def _cut(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    return good.suffix, good.content[: rng.randrange(len(good.content))]


def _cut_in_header(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    return good.suffix, good.content[: rng.randrange(200)]


def _overwrite_header(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    content = bytearray(good.content)
    at, count = rng.randrange(80), rng.randint(1, 64)
    content[at : at + count] = rng.randbytes(count)

    return good.suffix, bytes(content)


def _set_fields(kind: FieldKind | None) -> Callable[..., _Result]:
    def mutate(rng: random.Random, good: GoodFile, all_: list[GoodFile]) -> _Result:
        candidates = [g for g in all_ if list_fields(g.content, kind)]
        good = good if good in candidates else rng.choice(candidates)

        content = good.content
        for _ in range(rng.choice([1, 1, 2, 3])):
            field = rng.choice(list_fields(good.content, kind))
            content = set_field(rng, content, field)

        return good.suffix, mend_checksums(content)

    return mutate


def _insert(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    content = good.content
    for _ in range(rng.randint(1, 4)):
        at = rng.choice([rng.randrange(100), rng.randrange(len(content))])
        count = int(10 ** rng.uniform(0, 3.5))
        content = content[:at] + rng.choice([rng.randbytes(count), bytes(count)]) + content[at:]

    return good.suffix, content


def _remove(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    at = rng.choice([rng.randrange(100), rng.randrange(len(good.content))])

    return good.suffix, good.content[:at] + good.content[at + int(10 ** rng.uniform(0, 3.5)) :]


def _glue(rng: random.Random, good: GoodFile, all_: list[GoodFile]) -> _Result:
    first, second = good.content, rng.choice(all_).content
    if rng.random() < 0.5:
        first, second = first[: rng.randrange(len(first))], second[rng.randrange(len(second)) :]

    return good.suffix, first + second


def _rename(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    return rng.choice([s for s in _SUFFIXES if s != good.suffix]), good.content


def _spoil_floats(rng: random.Random, _: GoodFile, all_: list[GoodFile]) -> _Result:
    """Put numbers that are none, infinite, vast or tiny among samples stored as floats."""
    good = rng.choice([g for g in all_ if g.content[:4] == b"RIFF" and g.content[20] == 3])
    layout = "<f" if good.content[34] == 32 else "<d"
    size = struct.calcsize(layout)

    content = bytearray(good.content)
    start = content.find(b"data") + 8
    values = [float("nan"), float("inf"), -float("inf"), 3e38, -1e30, 1e12, 32768.0, 1e-45]

    for _ in range(rng.randint(1, 20)):
        at = start + size * rng.randrange((len(content) - start) // size)
        struct.pack_into(layout, content, at, rng.choice(values))

    return good.suffix, bytes(content)


def _write_no_audio(rng: random.Random, good: GoodFile, _: list[GoodFile]) -> _Result:
    magic = [
        b"RIFF\xff\xff\xff\xffWAVE",
        b"OggS\x00\x02",
        b"fLaC\x00\x00\x00\x22",
        b"ID3\x04\x00\x00",
    ]
    magic += [b"FORM\x00\x00\x00\xffAIFF", b".snd", b"\xff\xfb\x90\x00", b"NIST_1A\n   1024\n"]
    size = int(10 ** rng.uniform(0, 5))

    content = rng.choice(
        [
            b"",
            b"this is no audio, whatever its name says\n" * (size // 40 + 1),
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
            b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n",
            gzip.compress(good.content, mtime=0),
            b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + rng.randbytes(size),
            bytes(size),
            b"\xff" * size,
            rng.randbytes(size),
            rng.choice(magic) + bytes(size),
            rng.choice(magic) + rng.randbytes(size),
            rng.choice(magic) * (size // 8 + 1),
        ]
    )

    return rng.choice(_SUFFIXES), content


_KINDS: dict[str, Callable[[random.Random, GoodFile, list[GoodFile]], _Result]] = {
    "bits flipped": _flip_few_or_many,
    "bits of the header flipped": _flip_in_header,
    "bits flipped, checksums right": _flip_behind_checksums,
    "cut off": _cut,
    "cut off in the header": _cut_in_header,
    "header overwritten": _overwrite_header,
    "absurd fields": _set_fields(None),
    "absurd sample rate": _set_fields("rate"),
    "absurd length": _set_fields("length"),
    "absurd channels and blocks": _set_fields("layout"),
    "bytes put in": _insert,
    "bytes taken out": _remove,
    "two files in one": _glue,
    "another suffix": _rename,
    "floats that are no samples": _spoil_floats,
    "no audio": _write_no_audio,
}
