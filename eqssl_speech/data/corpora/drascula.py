"""Recordings and text of the Debian packages ``drascula*``: acted dialogue in English, Spanish and Italian."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip
from eqssl_speech.error import InputError

#: Where the dialogue of a group of characters lies in ``drascula.dat``: prefix of the recordings, offset, lines.
DIALOGUE_BLOCKS: Final = (
    ("", 7_253, 501),
    ("D", 128_039, 84),
    ("B", 156_357, 15),
    ("BJ", 161_523, 29),
    ("E", 175_629, 24),
    ("I", 183_159, 33),
    ("L", 194_221, 32),
    ("P", 207_335, 20),
    ("T", 211_589, 25),
    ("VB", 220_395, 63),
)

#: Languages of a block, in their order in the file; the last part holds another translation.
_BLOCK_LANGUAGES: Final = ("en", "es", "de", "fr", "it", "other")

#: Stands between the words of two lines, in Spanish and in German, that have no space; no other line of the five
#: languages has it, so that no ordinal is lost.
_SPACE_OF_THE_GAME: Final = "º"

_GAME: Final = "usr/share/scummvm/drascula"
_NAME: Final = re.compile(r"^([A-Z]*)(\d+)$")


def parse_block(content: bytes, offset: int, num_lines: int, language: str) -> list[str]:
    """Read the lines of one group of characters.

    A block is a big-endian 16-bit number of lines and, for each language, a 16-bit number of bytes and that many bytes
    of NUL-separated strings, of which the first byte is a length and no text. The byte 0xA7 is a space.

    :param content: the whole of ``drascula.dat``.
    :param offset: first byte of the block.
    :param num_lines: lines that the block must have.
    :param language: one of ``en``, ``es``, ``de``, ``fr``, ``it``.
    :returns: line n is what the recording ``<prefix>n`` says; line 0 is empty.
    :raises InputError: where the file has another layout.
    """
    found = int.from_bytes(content[offset : offset + 2], "big")
    if found != num_lines:
        raise InputError(
            f"`drascula.dat` must have {num_lines} lines at byte {offset}, but has {found} instead: "
            "it comes from another version of the package; use the one of Debian 12 or 13."
        )
    offset += 2
    for name in _BLOCK_LANGUAGES:
        num_bytes = int.from_bytes(content[offset : offset + 2], "big")
        offset += 2
        if name == language:
            break
        offset += num_bytes
    strings = [s for s in content[offset : offset + num_bytes].split(b"\0") if s]
    return [s[1:].decode("cp850").replace(_SPACE_OF_THE_GAME, " ") for s in strings]


def read_dialogue(content: bytes, language: str) -> dict[str, str]:
    """Read every line of dialogue in a language.

    :returns: text by name of the recording, e.g. ``{"VB12": "..."}``.
    """
    texts = {}
    for prefix, offset, num_lines in DIALOGUE_BLOCKS:
        for number, text in enumerate(parse_block(content, offset, num_lines, language)):
            texts[f"{prefix}{number}"] = text
    return texts


def list_drascula(root: Path, language: str, script_root: Path) -> list[Clip]:
    """List the recordings of an unpacked package.

    :param root: directory that the package was unpacked to.
    :param language: ``en``, ``es`` or ``it``.
    :param script_root: directory that ``drascula`` was unpacked to, which has the text of all languages.
    """
    folder = root / _GAME / language
    texts = read_dialogue((script_root / _GAME / "en/drascula.dat").read_bytes(), language)
    source = f"{language}-drascula"
    files = sorted(path for path in folder.glob("*.ALS") if _NAME.match(path.stem))
    return [Clip(source, f.stem, f, texts.get(f.stem, ""), encoding="u8") for f in files]


def character_group(clip_id: str) -> str:
    """Which group of characters speaks: the letters that a recording's name begins with; ``""`` is the hero."""
    match = _NAME.match(clip_id)
    return match[1] if match is not None else ""
