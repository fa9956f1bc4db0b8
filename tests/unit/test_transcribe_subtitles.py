"""Subtitles: what a cue may hold, and files that read back as they were."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from eqssl_speech.decoding.alignment import Word
from eqssl_speech.tasks.transcribe.subtitles import (
    MAX_CUE_S,
    MAX_LINE_LENGTH,
    Cue,
    make_cues,
    parse_subtitles,
    render_subtitles,
)


def say(words: str, start_s: float = 0.0, word_s: float = 0.3, gap_s: float = 0.1) -> list[Word]:
    step_s = word_s + gap_s

    return [
        Word(text, start_s + i * step_s, start_s + i * step_s + word_s, 0.9)
        for i, text in enumerate(words.split())
    ]


def draw_words(seed: int, count: int) -> list[Word]:
    rng = np.random.default_rng(seed)
    words, time_s = [], 0.0

    for _ in range(count):
        time_s += rng.choice([0.0, 0.05, 0.2, 0.5, 2.0], p=[0.2, 0.4, 0.2, 0.15, 0.05])
        text = "".join(rng.choice(list("абвгд"), rng.integers(1, 18)))
        length_s = rng.uniform(0.05, 1.2)
        words.append(Word(text, time_s, time_s + length_s, rng.uniform()))
        time_s += length_s

    return words


def text_of(cues: Sequence[Cue]) -> str:
    return " ".join(line for cue in cues for line in cue.lines)


@pytest.mark.parametrize("seed", range(30))
def test_cues_hold_every_word_in_two_short_lines_for_a_short_time(seed: int) -> None:
    words = draw_words(seed, 120)
    cues = make_cues(words)

    assert text_of(cues) == " ".join(word.text for word in words)

    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(len(line) <= MAX_LINE_LENGTH for line in cue.lines)
        assert 0 < cue.end_s - cue.start_s <= MAX_CUE_S

    for before, after in pairwise(cues):
        assert before.end_s <= after.start_s


def test_pause_begins_a_new_cue() -> None:
    cues = make_cues([*say("one two"), *say("three four", start_s=3.0)])

    assert [cue.lines for cue in cues] == [("one two",), ("three four",)]
    assert (cues[1].start_s, cues[0].end_s) == (3.0, 1.0)


def test_long_run_of_words_is_split_at_its_longest_pause_near_the_middle() -> None:
    words = [*say("a b c d e f g h i", gap_s=0.2), *say("j k l m n o p q", start_s=4.9, gap_s=0.2)]

    assert [cue.lines for cue in make_cues(words)] == [
        ("a b c d e f g h i",),
        ("j k l m n o p q",),
    ]


def test_two_lines_are_about_as_long() -> None:
    (cue,) = make_cues(say("to be or not to be that is the question whether", gap_s=0.05))

    assert cue.lines == ("to be or not to be that", "is the question whether")


def test_word_longer_than_a_line_stays_whole() -> None:
    word = "x" * 60

    cues = make_cues(say(f"short {word} short"))

    assert any(word in cue.lines for cue in cues)
    assert text_of(cues) == f"short {word} short"


def test_word_longer_than_a_cue_is_shown_for_as_long_as_a_cue_is() -> None:
    (cue,) = make_cues([Word("hm", 1.0, 11.0, 0.5)])

    assert (cue.start_s, cue.end_s) == (1.0, 1.0 + MAX_CUE_S)


def test_short_word_is_shown_for_a_second_where_there_is_room() -> None:
    cues = make_cues([Word("ja", 1.0, 1.1, 0.5), Word("nein", 1.9, 2.0, 0.5)])

    assert [(cue.start_s, cue.end_s) for cue in cues] == [(1.0, 1.9), (1.9, 2.9)]


def test_nothing_said_gives_no_cue() -> None:
    assert make_cues([]) == []
    assert render_subtitles([], "srt") == ""
    assert render_subtitles([], "vtt") == "WEBVTT\n"


@pytest.mark.parametrize("fmt", ["srt", "vtt"])
@pytest.mark.parametrize("seed", range(5))
def test_files_read_back_as_they_were(fmt: str, seed: int) -> None:
    cues = make_cues(draw_words(seed, 60))

    read = parse_subtitles(render_subtitles(cues, fmt))

    assert [cue.lines for cue in read] == [cue.lines for cue in cues]

    for ours, theirs in zip(read, cues, strict=True):
        assert ours.start_s == pytest.approx(theirs.start_s, abs=0.0006)
        assert ours.end_s == pytest.approx(theirs.end_s, abs=0.0006)


def test_subrip_is_written_to_the_letter() -> None:
    cues = [Cue(0.0, 1.2345, ("un", "deux")), Cue(3661.9996, 3663.0, ("trois < ⁇",))]

    assert render_subtitles(cues, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,234\nun\ndeux\n"
        "\n"
        "2\n01:01:02,000 --> 01:01:03,000\ntrois < ⁇\n"
    )


def test_webvtt_is_written_to_the_letter() -> None:
    cues = [Cue(0.0, 1.5, ("un", "deux")), Cue(2.0, 3.0, ("trois < & ⁇",))]

    text = render_subtitles(cues, "vtt")

    assert text == (
        "WEBVTT\n"
        "\n00:00:00.000 --> 00:00:01.500\nun\ndeux\n"
        "\n00:00:02.000 --> 00:00:03.000\ntrois &lt; &amp; ⁇\n"
    )
    assert parse_subtitles(text) == cues
