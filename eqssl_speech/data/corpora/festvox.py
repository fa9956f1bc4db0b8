"""Recordings, text and phone labels of the Debian package ``festvox-ru``: studio reading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip
from eqssl_speech.data.phones import Phone
from eqssl_speech.error import InputError

_VOICE: Final = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
_LABEL: Final = re.compile(r"^\s*([0-9]+(?:\.[0-9]*)?)\s+\S+\s+(\S+)\s*$")
_LINE: Final = re.compile(r'^\(\s*(\S+)\s+"(.*)"\s*\)\s*$')


def parse_prompts(content: str) -> dict[str, str]:
    """Read a FestVox prompt list, lines ``( name "text" )``.

    :param content: the text of ``txt.done.data``; a ``+`` before a vowel marks stress and is removed.
    :returns: text by utterance name.
    """
    matches = (_LINE.match(line) for line in content.splitlines())
    return {m[1]: m[2].replace('\\"', '"').replace("+", "") for m in matches if m is not None}


def parse_labels(content: str, where: str) -> tuple[Phone, ...]:
    """Read phone labels as ``xlabel`` writes them: a header that ends with a line ``#``, then ``end_s colour phone``.

    :param content: the text of a ``.lab`` file.
    :param where: names the file in messages.
    :returns: the phones; each begins where the one before it ends, the first at 0.
    :raises InputError: where the text is something else, or a phone does not end after the one before it.
    """
    _, mark, lines = f"\n{content}".partition("\n#\n")
    if not mark:
        raise InputError(f"{where}: has no line `#` with phones after it; fetch the package anew.")
    phones: list[Phone] = []
    start_s = 0.0
    for line in filter(str.strip, lines.split("\n")):
        match = _LABEL.match(line)
        if match is None:
            raise InputError(
                f"{where}: `{line.strip()}` is not `end_s colour phone`; fetch the package anew."
            )
        end_s = float(match[1])
        if not end_s > start_s:
            raise InputError(
                f"{where}: `{line.strip()}` does not end after {start_s} s; fetch the package anew."
            )
        phones.append(Phone(start_s, end_s, match[2]))
        start_s = end_s
    return tuple(phones)


def list_festvox(root: Path) -> list[Clip]:
    """List the recordings of the unpacked package.

    :param root: directory that the package was unpacked to.
    """
    voice = root / _VOICE
    texts = parse_prompts((voice / "etc/txt.done.data").read_text(encoding="utf-8"))
    waves = sorted((voice / "wav").glob("*.wav"))
    return [
        Clip(
            "ru-festvox",
            wave.stem,
            wave,
            texts.get(wave.stem, ""),
            phones=_read_labels(voice / "lab" / f"{wave.stem}.lab"),
        )
        for wave in waves
    ]


def _read_labels(file: Path) -> tuple[Phone, ...] | None:
    try:
        return parse_labels(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as ex:
        raise InputError(
            f"{file}: cannot be read as UTF-8 text ({ex}); fetch the package anew."
        ) from None
