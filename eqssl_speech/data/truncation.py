"""Tells a file that was cut off from a whole one, where its container allows it without decoding.

libsndfile does not: it clamps the length of a cut-off WAV file to what is there, and that of a cut-off OGG file to
its last whole page, and reports either as if it had always been so.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, Final

_UNKNOWN_SIZE: Final = 0x7FFFF000
"""Programs that write to a pipe claim this (SoX) or 0xFFFFFFFF (FFmpeg) bytes, as they cannot know the size."""

_MAX_NUM_CHUNKS: Final = 4096
"""No WAV file has as many before its samples; gigabytes of zeros would otherwise be so many empty ones."""

_OGG_HEADER_SIZE: Final = 27

_OGG_MAX_PAGE_SIZE: Final = _OGG_HEADER_SIZE + 255 + 255 * 255

_OGG_END_OF_STREAM: Final = 0x04


def is_truncated(path: Path) -> bool:
    """Tell whether the container says that the end of the file is missing; nothing is decoded.

    WAV (RIFF, RIFX, RF64, BW64): the data chunk claims more bytes than the file has. OGG: the last page is incomplete
    or does not end the stream. Other formats are only found out by decoding them.

    :param path: The audio file.
    :returns: ``True`` if it was cut off; ``False`` if it was not, or if its format does not tell.
    :raises OSError: If the file cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        magic = stream.read(4)

        if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
            return _is_riff_truncated(stream, size, ">" if magic == b"RIFX" else "<")

        return magic == b"OggS" and _is_ogg_truncated(stream, size)


def _is_riff_truncated(stream: BinaryIO, size: int, order: str) -> bool:
    # Behind the magic: the size of the whole, which many programs leave wrong, and the form type.
    stream.seek(8)
    if stream.read(4) != b"WAVE":
        return False

    long_size = 0

    for _ in range(_MAX_NUM_CHUNKS):
        header = stream.read(8)
        if len(header) < 8:
            break

        name, chunk_size = struct.unpack(f"{order}4sI", header)

        if name == b"data":
            claimed = long_size if chunk_size == 0xFFFFFFFF else chunk_size
            if chunk_size != 0xFFFFFFFF and chunk_size >= _UNKNOWN_SIZE:
                claimed = 0
            return bool(stream.tell() + claimed > size)

        if name == b"ds64":
            body = stream.read(16)
            if len(body) == 16:
                long_size = struct.unpack(f"{order}QQ", body)[1]
                # All bits set means unknown, as in the 32-bit field.
                long_size = 0 if long_size >= 1 << 63 else long_size
            chunk_size -= len(body)

        # A chunk of an odd size is followed by one byte of padding, which its size leaves out.
        stream.seek(max(0, chunk_size + chunk_size % 2), os.SEEK_CUR)

    return False


def _is_ogg_truncated(stream: BinaryIO, size: int) -> bool:
    # A page is at most 64 KiB, but mostly a few; read the rest only where the last one is not found.
    for tail_size in (8192, 2 * _OGG_MAX_PAGE_SIZE):
        stream.seek(max(0, size - tail_size))
        tail = stream.read(tail_size)

        start = tail.rfind(b"OggS\x00")
        if start >= 0:
            return _is_last_page_wrong(tail[start:])

    return True


def _is_last_page_wrong(page: bytes) -> bool:
    if len(page) < _OGG_HEADER_SIZE:
        return True

    num_segments = page[26]
    segments = page[_OGG_HEADER_SIZE : _OGG_HEADER_SIZE + num_segments]
    if len(page) < _OGG_HEADER_SIZE + num_segments + sum(segments):
        return True

    return not page[5] & _OGG_END_OF_STREAM
