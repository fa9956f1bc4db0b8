"""Recordings and text of the Debian package ``tuxpaint-stamps-default``: descriptions spoken by volunteers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from eqssl_speech.data.corpora.clip import Clip

_STAMPS: Final = "usr/share/tuxpaint/stamps"
_MARK: Final = "_desc_"

#: A word of Greek letters and of Latin ones that look the same, as a keyboard in the wrong layout leaves them.
_GREEK_WORD: Final = re.compile(
    r"\b(?=[A-Zo]*[\u0370-\u03ff\u1f00-\u1fff])[ABEHIKMNOPTXYZo\u0370-\u03ff\u1f00-\u1fff]+\b"
)
_TO_GREEK: Final = str.maketrans("ABEHIKMNOPTXYZo", "ΑΒΕΗΙΚΜΝΟΡΤΧΥΖο")


def parse_descriptions(content: str) -> dict[str, str]:
    """Read the text of a stamp: English on the first line, then lines ``<language>.utf8=text``.

    :returns: text by language; a Latin letter in a Greek word is made the Greek one that looks the same.
    """
    first, *others = content.splitlines() or [""]
    texts = {"en": first.strip()}
    for line in others:
        language, mark, text = line.partition(".utf8=")
        if mark:
            texts[language.strip()] = text.strip()
    return {language: _mend_greek(text) for language, text in texts.items()}


def _mend_greek(text: str) -> str:
    return _GREEK_WORD.sub(lambda match: match[0].translate(_TO_GREEK), text)


def list_tuxpaint(root: Path) -> list[Clip]:
    """List the recordings of the unpacked package, ``X_desc_<language>.ogg`` beside ``X.txt``, in every language.

    :param root: directory that the package was unpacked to.
    """
    stamps = root / _STAMPS
    clips = []
    for file in sorted(stamps.rglob(f"*{_MARK}*.ogg")):
        # One file of the package ends with `.ogg.ogg`.
        name, _, language = file.stem.removesuffix(".ogg").rpartition(_MARK)
        script = file.with_name(f"{name}.txt")
        texts = parse_descriptions(script.read_text(encoding="utf-8")) if script.is_file() else {}
        clip_id = (file.parent.relative_to(stamps) / name).as_posix()
        clips.append(Clip(f"{language}-tuxpaint", clip_id, file, texts.get(language, "")))
    return clips
