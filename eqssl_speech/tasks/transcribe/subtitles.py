"""Subtitles of words with times: cues of at most two lines, split at pauses, and the SubRip and WebVTT formats.

The formats are a dozen lines each, so they are written and read here rather than by a library.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Final, Literal, TypeAlias, final

from eqssl_speech.decoding.alignment import Word

SubtitleFormat: TypeAlias = Literal["srt", "vtt"]

MAX_LINE_LENGTH: Final = 42
"""Characters of a line; a longer word has a line of its own."""

MAX_CUE_S: Final = 7.0
"""The longest time that a cue is shown."""

_MAX_NUM_LINES: Final = 2

_PAUSE_S: Final = 0.7
"""A pause this long always begins a new cue."""

_BALANCE_S: Final = 0.6
"""How much longer a pause at the end of a run of words must be than one in its middle for the split to be there."""

_MIN_SHOWN_S: Final = 1.0
"""Cues stay this long where the next one leaves room, so that a short word can be read."""

_TIME: Final = re.compile(r"(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3})")


@final
@dataclass(frozen=True)
class Cue:
    """A text that is shown for a while."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def make_cues(words: Sequence[Word]) -> list[Cue]:
    """Divide words into cues.

    :param words: The words in their order, with times in seconds.
    :returns: The cues in their order; none is shown beyond the start of the next.
    """
    cues = [_make_cue(run) for part in _split_at_pauses(words) for run in _split(part)]

    return [
        _limit(cue, following.start_s if following is not None else None)
        for cue, following in zip(cues, [*cues[1:], None])
    ]


def render_subtitles(cues: Sequence[Cue], fmt: SubtitleFormat) -> str:
    """Write cues as a SubRip or WebVTT file.

    :param cues: The cues; there may be none.
    :param fmt: The format.
    :returns: The content of the file.
    """
    if fmt == "srt":
        return "\n".join(
            f"{number}\n{_render_times(cue, ',')}\n" + "".join(f"{line}\n" for line in cue.lines)
            for number, cue in enumerate(cues, start=1)
        )

    # The characters that are markup in WebVTT.
    blocks = [
        f"\n{_render_times(cue, '.')}\n"
        + "".join(f"{html.escape(line, quote=False)}\n" for line in cue.lines)
        for cue in cues
    ]

    return "WEBVTT\n" + "".join(blocks)


def parse_subtitles(text: str) -> list[Cue]:
    """Read what :func:`render_subtitles` writes.

    :param text: The content of a SubRip or WebVTT file.
    :returns: Its cues.
    """
    is_vtt = text.startswith("WEBVTT")

    cues = []

    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")

        for index, line in enumerate(lines):
            if " --> " in line:
                start_s, end_s = (_parse_time(time) for time in line.split(" --> "))
                shown = lines[index + 1 :]
                cues.append(
                    Cue(start_s, end_s, tuple(map(html.unescape, shown) if is_vtt else shown))
                )
                break

    return cues


def _split_at_pauses(words: Sequence[Word]) -> list[list[Word]]:
    parts: list[list[Word]] = []

    for word in words:
        if not parts or word.start_s - parts[-1][-1].end_s >= _PAUSE_S:
            parts.append([])

        parts[-1].append(word)

    return parts


def _split(words: list[Word]) -> list[list[Word]]:
    if len(words) == 1 or _fits(words):
        return [words]

    def rate(index: int) -> float:
        gap_s = words[index].start_s - words[index - 1].end_s

        return gap_s - _BALANCE_S * abs(2 * index / len(words) - 1)

    at = max(range(1, len(words)), key=rate)

    return _split(words[:at]) + _split(words[at:])


def _fits(words: Sequence[Word]) -> bool:
    duration_s = words[-1].end_s - words[0].start_s

    return duration_s <= MAX_CUE_S and len(_wrap(words)) <= _MAX_NUM_LINES


def _wrap(words: Sequence[Word]) -> list[str]:
    text = " ".join(word.text for word in words)

    lines = wrap(text, MAX_LINE_LENGTH, break_long_words=False, break_on_hyphens=False)

    if len(lines) == _MAX_NUM_LINES:
        # As even as two lines can be.
        for width in range(len(text) // 2, MAX_LINE_LENGTH):
            even = wrap(text, width, break_long_words=False, break_on_hyphens=False)
            if len(even) <= _MAX_NUM_LINES:
                return even

    return lines


def _make_cue(words: Sequence[Word]) -> Cue:
    return Cue(words[0].start_s, words[-1].end_s, tuple(_wrap(words)))


def _limit(cue: Cue, next_start_s: float | None) -> Cue:
    end_s = min(max(cue.end_s, cue.start_s + _MIN_SHOWN_S), cue.start_s + MAX_CUE_S)

    return replace(cue, end_s=end_s if next_start_s is None else min(end_s, next_start_s))


def _render_times(cue: Cue, mark: str) -> str:
    return f"{_render_time(cue.start_s, mark)} --> {_render_time(cue.end_s, mark)}"


def _render_time(time_s: float, mark: str) -> str:
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)

    return f"{hours:02}:{minutes:02}:{seconds:02}{mark}{milliseconds:03}"


def _parse_time(text: str) -> float:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"The time of a cue must be `HH:MM:SS,mmm`, but is `{text}` instead.")

    hours, minutes, seconds, milliseconds = (int(part or 0) for part in match.groups())

    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
