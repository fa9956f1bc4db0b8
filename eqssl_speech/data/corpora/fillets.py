"""Recordings and text of the Debian packages ``fillets-ng-data*``: acted dialogue in Czech and Dutch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip

_GAME: Final = "usr/share/games/fillets-ng"
_STRING: Final = r'"((?:[^"\\]|\\.)*)"'
_CALL: Final = re.compile(rf"dialog(Id|Str)\(\s*{_STRING}")
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)
_ESCAPE: Final = re.compile(r"\\(.)")


def parse_dialogs(content: str) -> dict[str, str]:
    """Read a dialogue script in Lua: ``dialogId("name", ...)`` followed by ``dialogStr("text")``.

    :param content: the text of ``dialogs_<language>.lua``.
    :returns: text by name of the recording; a name without a text is left out.
    """
    texts: dict[str, str] = {}
    name: str | None = None
    for kind, string in _CALL.findall(_COMMENT.sub("", content)):
        value = _ESCAPE.sub(lambda m: " " if m[1] == "n" else m[1], string)
        if kind == "Id":
            name = value
        elif name is not None:
            texts[name] = value
            name = None
    return texts


def list_fillets(root: Path, language: str, script_root: Path) -> list[Clip]:
    """List the recordings of an unpacked package.

    :param root: directory that ``fillets-ng-data-<language>`` was unpacked to.
    :param language: ``cs`` or ``nl``.
    :param script_root: directory that ``fillets-ng-data`` was unpacked to, which has the text.
    """
    clips = []
    for folder in sorted((root / _GAME / "sound").glob(f"*/{language}")):
        level = folder.parent.name
        script = script_root / _GAME / "script" / level / f"dialogs_{language}.lua"
        texts = parse_dialogs(script.read_text(encoding="utf-8")) if script.is_file() else {}
        for file in sorted(folder.glob("*.ogg")):
            text = texts.get(file.stem, "")
            clips.append(Clip(f"{language}-fillets", f"{level}/{file.stem}", file, text))
    return clips
