"""Recordings without sentence text: telephone prompts, a game's dialogue, letters and single words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip
from eqssl_speech.error import InputError

_QUEEN: Final = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
_QUEEN_HEADER: Final = 15
_QUEEN_ENTRY: Final = 21

#: Languages of the voices of hedgewars that are not named after one; ``Robot`` is synthetic and left out.
_HEDGEWARS_ENGLISH: Final = (
    "British", "Classic", "Default", "HillBilly", "Mobster", "Pirate", "Singer", "Surfer",
)  # fmt: skip


def list_prompts(root: Path, source: str, language: str) -> list[Clip]:
    """List the telephone prompts of an unpacked Asterisk package, whatever their format.

    :param root: directory that the package was unpacked to.
    :param source: name of the data source.
    :param language: language of the package, to pass over links from one language's folder to another.
    """
    sounds = root / "usr/share/asterisk/sounds"
    clips = []
    for folder in sorted(sounds.glob(f"{language}*")):
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            relative = file.relative_to(folder).with_suffix("")
            if file.suffix in (".g722", ".gsm", ".wav") and relative.parts[0] != "silence":
                encoding = "file" if file.suffix == ".wav" else file.suffix[1:]
                clips.append(Clip(source, relative.as_posix(), file, encoding=encoding))
    return clips


def parse_queen_table(content: bytes) -> dict[str, tuple[int, int]]:
    """Read the table at the start of ``queen.1c``.

    :param content: the beginning of the file, at least up to the end of the table.
    :returns: first byte and number of bytes by name.
    :raises InputError: where it is another file.
    """
    if content[:4] != b"QTBL":
        raise InputError("`queen.1c` must begin with `QTBL`; unpack the Debian package once more.")
    table = {}
    for index in range(int.from_bytes(content[13:15], "big")):
        start = _QUEEN_HEADER + index * _QUEEN_ENTRY
        entry = content[start : start + _QUEEN_ENTRY]
        name = entry[:12].rstrip(b"\0 ").decode("ascii")
        table[name] = (int.from_bytes(entry[13:17], "big"), int.from_bytes(entry[17:21], "big"))
    return table


def list_queen(root: Path) -> list[Clip]:
    """List the speech of the unpacked package ``flight-of-the-amazon-queen``, MP3 inside one file.

    :param root: directory that the package was unpacked to.
    """
    file = root / _QUEEN
    with file.open("rb") as stream:
        table = parse_queen_table(stream.read(_QUEEN_HEADER + _QUEEN_ENTRY * 65_536))
    # Sound effects are named <number>SSSSS.SB.
    names = sorted(name for name in table if name.endswith(".SB") and "SSS" not in name)
    source = "en-amazon-queen"
    return [
        Clip(source, name[:-3].lower(), file, offset=table[name][0], num_bytes=table[name][1])
        for name in names
    ]


def list_by_language(root: Path, folder: str, family: str) -> list[Clip]:
    """List recordings that lie in one folder per language.

    :param root: directory that the package was unpacked to.
    :param folder: the folder that holds those of the languages.
    :param family: end of the sources' names.
    """
    clips = []
    for language in sorted((root / folder).glob("*")):
        code = language.name.replace("@", "-").replace("_", "-")
        for file in sorted(language.rglob("*")):
            if file.suffix in (".ogg", ".opus", ".wav", ".mp3"):
                clip_id = file.relative_to(language).with_suffix("").as_posix()
                clips.append(Clip(f"{code}-{family}", clip_id, file))
    return clips


def list_gcin(root: Path) -> list[Clip]:
    """List the syllables of the unpacked package ``gcin-voice``: one folder a syllable, one file a speaker."""
    folder = root / "usr/share/gcin-voice/ogg"
    files = sorted(folder.rglob("*.ogg"))
    # Bopomofo in a file name is no help to anyone: the code points name the syllable.
    names = ("_".join(f"{ord(c):x}" for c in file.parent.name) for file in files)
    return [Clip("zh-gcin", f"{n}/{f.stem}", f) for n, f in zip(names, files, strict=True)]


def list_hedgewars(root: Path) -> list[Clip]:
    """List the voices of the unpacked package ``hedgewars-data``, by language."""
    voices = root / "usr/share/games/hedgewars/Data/Sounds/voices"
    clips = []
    for voice in sorted(voices.glob("*")):
        match = re.fullmatch(r"\w+_([a-z]{2})", voice.name)
        language = match[1] if match else "ru" if voice.name == "Russian" else "en"
        if language == "en" and voice.name not in _HEDGEWARS_ENGLISH:
            continue
        for file in sorted(voice.rglob("*.ogg")):
            clip_id = f"{voice.name}/{file.relative_to(voice).with_suffix('').as_posix()}"
            clips.append(Clip(f"{language}-hedgewars", clip_id, file))
    return clips
