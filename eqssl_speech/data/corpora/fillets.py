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
    scripts = script_root / _GAME / "script"
    shared = _read_scripts(sorted((scripts / "share").glob(f"*_dialogs_{language}.lua")))
    sounds = root / _GAME / "sound"
    clips = []
    for folder in sorted(f for f in sounds.rglob(language) if f.is_dir()):
        level = folder.parent.relative_to(sounds)
        own = _read_scripts([scripts / level / f"dialogs_{language}.lua"])
        for file in sorted(folder.glob("*.ogg")):
            text = own.get(file.stem, shared.get(file.stem, ""))
            clip_id = (level / file.stem).as_posix()
            clips.append(Clip(f"{language}-fillets", clip_id, file, text))
    return clips


def _read_scripts(files: list[Path]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for file in files:
        if file.is_file():
            texts |= parse_dialogs(file.read_text(encoding="utf-8"))
    return texts
