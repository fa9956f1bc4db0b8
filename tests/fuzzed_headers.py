"""Where the headers of audio files hold their numbers, and how to make those absurd."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

FieldKind: TypeAlias = Literal["rate", "length", "layout", "other"]
"""What a number says: the sample rate, a number of samples or bytes, channels and block sizes, or something else."""

_RATES = [0, 1, 2, 999, 4000, 7999, 11024, 15999, 16001, 22254, 22255, 44056, 44100, 96000, 192000]
_RATES += [
    655350,
    1_000_001,
    16_000_000,
    1_600_000_000,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
]


@dataclass(frozen=True)
class Field:
    """A number in a header."""

    kind: FieldKind
    offset: int
    """Its first byte."""

    num_bytes: int
    order: Literal["little", "big"]
    first_bit: int = 0
    """Its lowest bit within these bytes."""

    num_bits: int | None = None
    """Its bits; by default all."""


def list_fields(content: bytes, kind: FieldKind | None = None) -> list[Field]:
    """Return the numbers of the header of a good file.

    :param content: The file.
    :param kind: Only those of a kind; ``None`` for all.
    """
    if content[:4] in (b"RIFF", b"RF64"):
        fields = list(_list_riff(content))
    elif content.startswith(b"fLaC"):
        fields = _FLAC
    elif content.startswith(b"OggS"):
        fields = list(_list_ogg(content))
    elif content.startswith((b"FORM", b".snd", b"caff", b"riff")):
        fields = _OTHERS[content[:4]]
    elif content.startswith(b"\xff"):
        fields = _MP3 if content[13:17] == b"Xing" or content[21:25] == b"Xing" else _MP3[:1]
    else:
        fields = []

    return [field for field in fields if kind in (None, field.kind)]


def set_field(rng: random.Random, content: bytes, field: Field) -> bytes:
    """Give a number of a header a value that no recording has."""
    num_bits = field.num_bits or 8 * field.num_bytes
    mask = (1 << num_bits) - 1

    values = [0, 1, 2, 3, 7, 255, 65535, mask, mask - 1, mask >> 1, (mask >> 1) + 1, mask // 3]
    values += [1 << rng.randrange(num_bits), rng.randint(0, mask)]
    value = rng.choice(_RATES if field.kind == "rate" else values) & mask

    span = slice(field.offset, field.offset + field.num_bytes)
    number = int.from_bytes(content[span], field.order)
    number = number & ~(mask << field.first_bit) | value << field.first_bit

    changed = bytearray(content)
    # Nothing where an earlier change has made the file shorter.
    changed[span] = number.to_bytes(field.num_bytes, field.order)

    return bytes(changed)


def flip_bits(rng: random.Random, content: bytes, count: int, reach: int) -> bytes:
    """Flip random bits.

    :param count: So many, some of which may be the same.
    :param reach: Only in so many bytes from the start.
    """
    changed = bytearray(content)
    for _ in range(count):
        bit = rng.randrange(8 * min(reach, len(content)))
        changed[bit // 8] ^= 1 << bit % 8

    return bytes(changed)


def mend_checksums(content: bytes) -> bytes:
    """Make the checksums of the pages of an OGG file right; other files stay as they are."""
    if not content.startswith(b"OggS"):
        return content

    changed = bytearray(content)
    for start, end in _find_pages(content):
        page = bytearray(content[start:end])
        if len(page) >= 27:
            page[22:26] = bytes(4)
            changed[start + 22 : start + 26] = struct.pack("<I", _checksum(bytes(page)))

    return bytes(changed)


def _list_riff(content: bytes) -> Iterator[Field]:
    yield Field("length", 4, 4, "little")

    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        yield Field("length" if name in (b"data", b"fact") else "other", at + 4, 4, "little")

        if name == b"fmt ":
            yield Field("other", at + 8, 2, "little")  # The coding.
            yield Field("layout", at + 10, 2, "little")  # Channels.
            yield Field("rate", at + 12, 4, "little")
            yield Field("other", at + 16, 4, "little")  # Bytes per second.
            yield Field("layout", at + 20, 2, "little")  # Bytes of a block.
            yield Field("layout", at + 22, 2, "little")  # Bits of a sample.
            if size > 16:
                yield Field("layout", at + 26, 2, "little")  # Samples of a block.
        elif name == b"fact":
            yield Field("length", at + 8, 4, "little")
        elif name == b"ds64":
            yield from (Field("length", at + 8 + 8 * i, 8, "little") for i in range(3))
        elif name == b"data":
            return

        at += 8 + size + size % 2


def _list_ogg(content: bytes) -> Iterator[Field]:
    pages = _find_pages(content)

    # Of the first page and of the last, which says where the stream ends.
    for start, _ in (pages[0], pages[-1]):
        yield Field("length", start + 6, 8, "little")
        yield Field("other", start + 4, 1, "little")
        yield Field("other", start + 5, 1, "little")
        yield Field("other", start + 14, 4, "little")
        yield Field("other", start + 18, 4, "little")
        yield Field("other", start + 26, 1, "little")
        yield Field("other", start + 27, 1, "little")

    if content[28:36] == b"OpusHead":
        yield Field("layout", 37, 1, "little")  # Channels.
        yield Field("length", 38, 2, "little")  # Samples to skip.
        yield Field("rate", 40, 4, "little")
        yield Field("other", 44, 2, "little")
        yield Field("layout", 46, 1, "little")
    else:
        yield Field("layout", 39, 1, "little")  # Channels.
        yield Field("rate", 40, 4, "little")
        yield from (Field("other", 44 + 4 * i, 4, "little") for i in range(3))
        yield Field("layout", 56, 1, "little")  # Two block sizes.


def _find_pages(content: bytes) -> list[tuple[int, int]]:
    starts = [match.start() for match in re.finditer(b"OggS", content)]

    return list(zip(starts, [*starts[1:], len(content)]))


_CHECKSUMS = []
for _byte in range(256):
    _value = _byte << 24
    for _ in range(8):
        _value = (_value << 1 ^ (0x04C11DB7 if _value >> 31 else 0)) & 0xFFFFFFFF
    _CHECKSUMS.append(_value)


def _checksum(page: bytes) -> int:
    # RFC 3533, section 6; nothing in Python's library goes in this direction.
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _CHECKSUMS[value >> 24 ^ byte]

    return value


# Of the block STREAMINFO.
_FLAC = [
    Field("other", 4, 1, "big"),
    Field("other", 5, 3, "big"),
    Field("layout", 8, 2, "big"),
    Field("layout", 10, 2, "big"),
    Field("other", 12, 3, "big"),
    Field("other", 15, 3, "big"),
    Field("rate", 18, 8, "big", 44, 20),
    Field("layout", 18, 8, "big", 41, 3),
    Field("layout", 18, 8, "big", 36, 5),
    Field("length", 18, 8, "big", 0, 36),
]

# Of the first frame, which holds how many frames and bytes there are.
_MP3 = [
    Field("other", 0, 4, "big"),
    *[Field("length", at, 4, "big") for at in (21, 25, 29, 33)],
    Field("other", 20, 1, "big"),
]

_OTHERS = {
    b"FORM": [
        Field("length", 4, 4, "big"),
        Field("other", 16, 4, "big"),
        Field("layout", 20, 2, "big"),
        Field("length", 22, 4, "big"),
        Field("layout", 26, 2, "big"),
        Field("other", 28, 2, "big"),
        Field("other", 30, 8, "big"),
        Field("length", 42, 4, "big"),
    ],
    b".snd": [
        Field("other", 4, 4, "big"),
        Field("length", 8, 4, "big"),
        Field("other", 12, 4, "big"),
        Field("rate", 16, 4, "big"),
        Field("layout", 20, 4, "big"),
    ],
    b"caff": [
        Field("other", 12, 8, "big"),
        Field("other", 20, 8, "big"),
        *[Field("layout", at, 4, "big") for at in (36, 40, 44, 48)],
        Field("length", 56, 8, "big"),
    ],
    b"riff": [
        Field("length", 16, 8, "little"),
        Field("other", 56, 8, "little"),
        Field("layout", 66, 2, "little"),
        Field("rate", 68, 4, "little"),
        Field("layout", 76, 2, "little"),
        Field("layout", 78, 2, "little"),
    ],
}
