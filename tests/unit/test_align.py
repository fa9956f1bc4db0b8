"""Known texts are placed where they are said, and what cannot be placed is named."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from spelled_audio import HOP, RATE, SpelledRecognizer, write_spelled

from eqssl_speech.data.corpus import DataSource, write_sources
from eqssl_speech.data.manifest import ManifestEntry, write_manifest
from eqssl_speech.decoding.alignment import Word
from eqssl_speech.error import InputError
from eqssl_speech.tasks.align.align import Alignment, AlignmentJob
from eqssl_speech.tasks.align.ctm import read_ctm, write_ctm
from eqssl_speech.tasks.evaluate.references import load_evaluation_set
from eqssl_speech.tasks.transcribe.planning import EmissionOptions

# The border before frame 0 of a model whose frames hear 400 samples: 40 samples.
OFFSET_S = 0.0025

FRAME_S = HOP / RATE


def make_corpus(directory: Path, texts: dict[str, dict[str, str]]) -> Path:
    """Write a corpus of which the recordings say what the texts say, by the name of the source and of the recording."""
    for source, recordings in texts.items():
        folder = directory / source
        entries = [ManifestEntry(n, write_spelled(folder / n, t)) for n, t in recordings.items()]

        write_manifest(folder / "test.tsv", ".", entries)
        lines = "".join(f"{text}\n" for text in recordings.values())
        (folder / "test.wrd").write_text(lines, encoding="utf-8")

    write_sources(
        directory, [DataSource(n, n[:2], "read", "CC0-1.0", directory / n) for n in texts]
    )

    return directory


def run(
    corpus: Path,
    *,
    names: list[str] | None = None,
    options: EmissionOptions | None = None,
    recognizer: SpelledRecognizer | None = None,
) -> Alignment:
    model = recognizer or SpelledRecognizer()

    evaluation_set = load_evaluation_set(corpus, "test", names, model)  # type: ignore[arg-type]

    return AlignmentJob(evaluation_set, model, options or EmissionOptions()).run()  # type: ignore[arg-type]


def test_words_are_where_they_are_spelled(tmp_path: Path) -> None:
    make_corpus(tmp_path, {"en": {"a.wav": "ab cd"}})

    (utterance,) = run(tmp_path).utterances

    # Labels of 2 frames and a gap of 2 after each, from frame 5 on: a 5-7, b 9-11, boundary 13-15, c 17-19, d 21-23.
    # The words meet in the middle of 11 and 17, and reach 3 frames (0.06 s) into the silence at the ends.
    frames = [
        ((w.start_s - OFFSET_S) / FRAME_S, (w.end_s - OFFSET_S) / FRAME_S) for w in utterance.words
    ]

    assert [w.text for w in utterance.words] == ["ab", "cd"]
    assert frames == [pytest.approx((2, 14)), pytest.approx((14, 26))]
    assert all(0.9 <= w.confidence <= 0.92 for w in utterance.words)
    assert utterance.name == "a.wav"
    assert utterance.duration_s == (5 + 5 * 4 + 5) * FRAME_S


def test_clock_is_that_of_the_model(tmp_path: Path) -> None:
    make_corpus(tmp_path, {"en": {"a.wav": "ab"}})

    # Frames that hear 80 samples more lie 40 samples later; there are as many of them.
    recognizer = replace(SpelledRecognizer(), receptive_field_samples=480)

    (usual,), (later,) = (
        run(tmp_path, recognizer=model).utterances[0].words
        for model in (SpelledRecognizer(), recognizer)
    )

    assert later.start_s - usual.start_s == pytest.approx(40 / RATE)
    assert later.end_s - usual.end_s == pytest.approx(40 / RATE)


def test_times_are_those_of_the_utterance_at_any_sample_rate(tmp_path: Path) -> None:
    folder = tmp_path / "en"
    make_corpus(tmp_path, {"en": {"a.wav": "ab cd"}})

    # Two channels at three times the rate, and a part of such a file with a second before it and one after.
    num_samples = write_spelled(folder / "b.wav", "ab cd", 3 * RATE, 2)
    samples, _ = soundfile.read(folder / "b.wav", dtype="float32")
    silence = np.zeros((3 * RATE, 2), np.float32)
    soundfile.write(folder / "c.wav", np.concatenate([silence, samples, silence]), 3 * RATE)

    entries = [
        ManifestEntry("a.wav", num_samples // 3),
        ManifestEntry("b.wav", num_samples),
        ManifestEntry("c.wav", num_samples, 3 * RATE, is_slice=True),
    ]
    write_manifest(folder / "test.tsv", ".", entries)
    (folder / "test.wrd").write_text("ab cd\n" * 3)

    a, b, c = run(tmp_path).utterances

    assert c.name == f"c.wav:{3 * RATE}:{num_samples}"
    assert a.duration_s == b.duration_s == c.duration_s

    times = [[(w.text, w.start_s, w.end_s) for w in u.words] for u in (a, b, c)]
    assert times[0] == times[1] == times[2]


def test_text_that_is_not_what_is_said_is_placed_all_the_same_and_not_believed(
    tmp_path: Path,
) -> None:
    make_corpus(tmp_path, {"en": {"a.wav": "one two three", "b.wav": "one two three"}})
    (tmp_path / "en" / "test.wrd").write_text("one two three\none xyz three\n")

    right, wrong = (u.words for u in run(tmp_path).utterances)

    assert [w.text for w in wrong] == ["one", "xyz", "three"]
    assert wrong[1].confidence < 0.1 < 0.9 < right[1].confidence
    assert (wrong[0].start_s, wrong[2].end_s) == (right[0].start_s, right[2].end_s)


def test_long_recordings_are_aligned_as_a_whole(tmp_path: Path) -> None:
    text = " ".join(["long", "recording", "of", "many", "words"] * 6)
    make_corpus(tmp_path, {"en": {"a.wav": text, "b.wav": "short"}})

    recognizer = SpelledRecognizer()
    options = EmissionOptions(max_segment_s=2.0, batch_s=4.0)

    cut = run(tmp_path, options=options, recognizer=recognizer)
    whole = run(tmp_path)

    assert max(map(max, recognizer.batches)) <= 2 * RATE
    assert len(recognizer.batches) > 3

    assert " ".join(w.text for w in cut.utterances[0].words) == text
    assert cut == whole


def test_utterances_are_in_the_order_of_the_manifests_and_named_with_their_source(
    tmp_path: Path,
) -> None:
    make_corpus(tmp_path, {"en": {"b.wav": "b", "a.wav": "a longer text"}, "de": {"a.wav": "ä"}})

    assert [u.name for u in run(tmp_path).utterances] == ["en/b.wav", "en/a.wav", "de/a.wav"]
    assert [u.name for u in run(tmp_path, names=["de"]).utterances] == ["a.wav"]

    # The form of the names does not depend on whether the other source can be aligned.
    (tmp_path / "de" / "a.wav").unlink()
    assert [u.name for u in run(tmp_path).utterances] == ["en/b.wav", "en/a.wav"]


def test_what_cannot_be_aligned_is_left_out_by_name_and_reason(tmp_path: Path) -> None:
    names = [f"{name}.wav" for name in ("good", "mute", "gone", "unknown", "short", "nan")]
    make_corpus(tmp_path, {"ru": dict.fromkeys(names, "мир")})
    folder = tmp_path / "ru"

    (folder / "gone.wav").unlink()
    # The vocabulary has three Russian letters; a recording has 21 frames.
    lines = ["Мир!", "...", "мир", "мир и труд", " ".join(["рр"] * 6), "мир"]
    (folder / "test.wrd").write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")

    samples, _ = soundfile.read(folder / "nan.wav", dtype="float32")
    soundfile.write(folder / "nan.wav", samples * np.nan, RATE, subtype="FLOAT")

    alignment = run(tmp_path)

    assert [u.name for u in alignment.utterances] == ["good.wav"]
    assert {(u.id, u.reason) for u in alignment.left_out} == {
        ("mute.wav", "no text"),
        ("gone.wav", "missing"),
        ("unknown.wav", "unknown characters"),
        ("short.wav", "too short for its labels"),
        ("nan.wav", "not finite"),
    }

    messages = {u.id: u.message for u in alignment.left_out}

    assert messages["unknown.wav"] == (
        f"{folder}/unknown.wav: the text has `д`, `т`, `у`, which the model's vocabulary lacks"
    )
    assert messages["short.wav"].endswith("has 21 frames, but its 17 labels need 23")


def test_source_of_which_nothing_can_be_aligned_is_left_out_by_name(tmp_path: Path) -> None:
    make_corpus(
        tmp_path,
        {
            "en": {"a.wav": "ab", "b.wav": "cd"},
            "ru": {"a.wav": "труд", "b.wav": "мир", "c.wav": "мир"},
            "de": {"a.wav": "ä", "b.wav": "é"},
        },
    )
    (tmp_path / "ru" / "b.wav").unlink()
    (tmp_path / "en" / "a.wav").unlink()

    samples, _ = soundfile.read(tmp_path / "ru" / "c.wav", dtype="float32")
    soundfile.write(tmp_path / "ru" / "c.wav", samples * np.nan, RATE, subtype="FLOAT")

    alignment = run(tmp_path)

    assert [u.name for u in alignment.utterances] == ["en/b.wav", "de/a.wav"]
    assert alignment.left_out_sources == {"ru": "none of its 3 utterances can be aligned"}


def test_nothing_to_align_is_one_sentence_before_the_model_runs(tmp_path: Path) -> None:
    make_corpus(tmp_path, {"ru": {"a.wav": "труд", "b.wav": "труд"}})

    recognizer = SpelledRecognizer()

    with pytest.raises(InputError, match=r"`test` can be aligned; the first of 2: .*a\.wav: the "):
        run(tmp_path, recognizer=recognizer)

    assert recognizer.batches == []


def test_ctm_is_read_as_it_was_written(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    borders = torch.rand(20, generator=generator).cumsum(0).tolist()

    words = [Word(f"wörd{i}", a, b, a / b) for i, (a, b) in enumerate(pairwise(borders))]
    written = {"audio/00 ü.flac:0:9": words[:9], "50%\u00a0;\u3000.wav": words[9:], ";;": words[:1]}

    file = write_ctm(tmp_path / "a.ctm", written.items())
    found = read_ctm(file)

    assert list(found) == list(written)

    for name, expected in written.items():
        assert found[name] == [
            Word(w.text, round(w.start_s, 3), round(w.end_s, 3), round(w.confidence, 4))
            for w in expected
        ]

    # Words that meet do so as written.
    ours = found["audio/00 ü.flac:0:9"]
    assert [w.end_s for w in ours[:-1]] == [w.start_s for w in ours[1:]]
    assert file.read_text().splitlines()[0].split(" ")[:2] == ["audio/00%20ü.flac:0:9", "1"]


def test_ctm_of_others_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.ctm"
    file.write_text(
        "\ufeff;; from elsewhere\n\n7654 A 11.34 0.2  YES -6.763\n7654\tA\t12.0\t0.34\tYOU\r\n"
    )

    assert read_ctm(file) == {
        "7654": [Word("YES", 11.34, 11.54, -6.763), Word("YOU", 12.0, 12.34, 1.0)]
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 1 0.0 1.0", "but has 4 columns"),
        ("a 1 0.0 1.0 two words 0.5", "but has 7 columns"),
        ("a 1 0.0 one word", "must be numbers"),
        ("a 1 0.0 -1 word", "not negative"),
        ("a 1 nan 1 word", "must be numbers"),
        ("a 1 0.0 1 word sure", "must be numbers"),
    ],
)
def test_damaged_ctm_is_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "a.ctm"
    file.write_text(f"a 1 0.0 1.0 good\n{line}\n")

    with pytest.raises(InputError, match=rf"a\.ctm:2: .*{message}"):
        read_ctm(file)


def test_missing_ctm_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a CTM file"):
        read_ctm(tmp_path / "a.ctm")
