"""Text as the corpora write it, and the filters that decide which recordings are kept."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

_APOSTROPHES: Final = str.maketrans({"\u2019": "'", "\u02bc": "'", "\u00b4": "'", "`": "'"})
_STRAY_APOSTROPHE: Final = re.compile(r"(?<!\w)'+|'+(?!\w)")
_PLACEHOLDER: Final = re.compile(r"%\d")


def normalize_text(text: str) -> str:
    """Bring text to NFC and lower case, without digits and punctuation.

    Letters, combining marks and apostrophes inside a word stay; everything else separates words.
    """
    text = unicodedata.normalize("NFC", text).lower().translate(_APOSTROPHES)
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LM" else " " for c in text)
    return " ".join(_STRAY_APOSTROPHE.sub(" ", kept).split())


@dataclass(frozen=True, kw_only=True)
class ClipFilter:
    """What a recording must satisfy to be kept."""

    min_duration_s: float = 0.6
    """Shortest recording, in seconds."""

    max_duration_s: float = 16.0
    """Longest recording, in seconds."""

    min_chars_per_s: float = 4.0
    """Fewest characters of normalised text per second."""

    max_chars_per_s: float = 28.0
    """Most characters of normalised text per second: a higher rate means text that is not what was said."""

    def find_fault(self, duration_s: float, raw_text: str | None) -> str | None:
        """Say why a recording is left out.

        :param duration_s: its length, in seconds.
        :param raw_text: its text as found; ``None`` where the source has none at all.
        :returns: the reason in a few words, or ``None`` for a recording that is kept.
        """
        if duration_s < self.min_duration_s:
            return "too short"
        if duration_s > self.max_duration_s:
            return "too long"
        if raw_text is None:
            return None
        if _PLACEHOLDER.search(raw_text):
            return "placeholder in the text"
        text = normalize_text(raw_text)
        if not text:
            return "no text"
        if not self.min_chars_per_s <= len(text) / duration_s <= self.max_chars_per_s:
            return "text does not fit"
        return None
