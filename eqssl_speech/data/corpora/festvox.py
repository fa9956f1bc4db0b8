"""Recordings and text of the Debian package ``festvox-ru``: studio reading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip

_VOICE: Final = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
_LINE: Final = re.compile(r'^\(\s*(\S+)\s+"(.*)"\s*\)\s*$')


def parse_prompts(content: str) -> dict[str, str]:
    """Read a FestVox prompt list, lines ``( name "text" )``.

    :param content: the text of ``txt.done.data``; a ``+`` before a vowel marks stress and is removed.
    :returns: text by utterance name.
    """
    matches = (_LINE.match(line) for line in content.splitlines())
    return {m[1]: m[2].replace('\\"', '"').replace("+", "") for m in matches if m is not None}


def list_festvox(root: Path) -> list[Clip]:
    """List the recordings of the unpacked package.

    :param root: directory that the package was unpacked to.
    """
    voice = root / _VOICE
    texts = parse_prompts((voice / "etc/txt.done.data").read_text(encoding="utf-8"))
    waves = sorted((voice / "wav").glob("*.wav"))
    return [Clip("ru-festvox", wave.stem, wave, texts.get(wave.stem, "")) for wave in waves]
