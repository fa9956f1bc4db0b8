"""Evaluation: planted errors are counted to the last one, and what cannot be evaluated is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from spelled_audio import RATE, SpelledRecognizer, spell, write_spelled
from spelled_corpus import SOURCES, Planted, make_spelled_corpus
from spelled_evaluation import run

from eqssl_speech.data.manifest import ManifestEntry, write_manifest
from eqssl_speech.decoding.error_rates import ErrorCounts
from eqssl_speech.error import InputError
from eqssl_speech.tasks.evaluate.scores import ScoredUtterance
from eqssl_speech.tasks.transcribe.planning import EmissionOptions


def totals(counts: ErrorCounts) -> tuple[int, int, int, int]:
    return counts.num_reference, counts.num_errors, counts.num_hypothesis, counts.hits


def wer(utterances: list[Planted]) -> float:
    # jiwer takes lists; an empty hypothesis is all deletions.
    return jiwer.wer([u.reference for u in utterances], [u.hypothesis for u in utterances])


def cer(utterances: list[Planted]) -> float:
    return jiwer.cer([u.reference for u in utterances], [u.hypothesis for u in utterances])


def test_hypotheses_are_what_the_recordings_say(tmp_path: Path) -> None:
    planted = make_spelled_corpus(tmp_path / "c")

    evaluation = run(tmp_path / "c")

    found = [(u.source, u.id, u.reference, u.hypothesis) for u in evaluation.utterances]

    assert found == [(p.source, p.id, p.reference, p.hypothesis) for p in planted]
    assert evaluation.left_out == ()


def test_rates_are_those_of_jiwer_per_source_language_domain_and_on_average(tmp_path: Path) -> None:
    planted = make_spelled_corpus(tmp_path / "c")

    evaluation = run(tmp_path / "c")

    def check(scores: object, chosen: list[Planted]) -> None:
        assert scores.wer.value == pytest.approx(wer(chosen))  # type: ignore[attr-defined]
        assert scores.cer.value == pytest.approx(cer(chosen))  # type: ignore[attr-defined]
        assert scores.num_utterances == len(chosen)  # type: ignore[attr-defined]
        assert scores.empty_share == sum(not p.hypothesis for p in chosen) / len(chosen)  # type: ignore[attr-defined]

    for name, scores in evaluation.by_source.items():
        check(scores, [p for p in planted if p.source == name])

    for name, scores in evaluation.by_language.items():
        check(scores, [p for p in planted if SOURCES[p.source][0] == name])

    for name, scores in evaluation.by_domain.items():
        check(scores, [p for p in planted if SOURCES[p.source][1] == name])

    check(evaluation.micro, planted)

    per_source = [[p for p in planted if p.source == name] for name in SOURCES]
    per_language = [[p for p in planted if SOURCES[p.source][0] == x] for x in ("en", "de", "ru")]

    assert evaluation.macro_sources.cer.value == pytest.approx(np.mean([*map(cer, per_source)]))
    assert evaluation.macro_sources.wer.value == pytest.approx(np.mean([*map(wer, per_source)]))
    assert evaluation.macro_languages.cer.value == pytest.approx(np.mean([*map(cer, per_language)]))
    assert evaluation.macro_languages.wer.value == pytest.approx(np.mean([*map(wer, per_language)]))

    assert list(evaluation.by_language) == ["en", "de", "ru"]
    assert list(evaluation.by_domain) == ["read", "film"]


def test_counts_are_those_of_jiwer(tmp_path: Path) -> None:
    planted = make_spelled_corpus(tmp_path / "c")

    micro = run(tmp_path / "c").micro

    references = [p.reference for p in planted]
    hypotheses = [p.hypothesis for p in planted]

    for counts, result in (
        (micro.words, jiwer.process_words(references, hypotheses)),
        (micro.chars, jiwer.process_characters(references, hypotheses)),
    ):
        assert counts == ErrorCounts(
            result.substitutions, result.deletions, result.insertions, result.hits
        )


def test_known_errors_are_counted(tmp_path: Path) -> None:
    utterance = ScoredUtterance.score("a", "s", 1.0, "the cat sat", "the bat sat on")

    assert utterance.words == ErrorCounts(substitutions=1, deletions=0, insertions=1, hits=2)
    assert utterance.chars == ErrorCounts(substitutions=1, deletions=0, insertions=3, hits=10)


def test_unknown_characters_of_the_reference_are_errors(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)
    folder = tmp_path / "c" / "ru-read"

    # The vocabulary has `м`, `и` and `р` only; the recording emits `<unk>` for the others, which says nothing.
    name = "audio/00 ü.flac"
    write_manifest(
        folder / "test.tsv", ".", [ManifestEntry(name, write_spelled(folder / name, "мид да"))]
    )
    (folder / "test.wrd").write_text("мид да\n", encoding="utf-8")

    (utterance,) = run(tmp_path / "c", names=["ru-read"]).utterances

    assert (utterance.reference, utterance.hypothesis) == ("мид да", "ми")
    assert utterance.chars == ErrorCounts(deletions=4, hits=2)
    assert utterance.words == ErrorCounts(substitutions=1, deletions=1)


def test_confusions_are_those_planted(tmp_path: Path) -> None:
    planted = make_spelled_corpus(tmp_path / "c")
    evaluation = run(tmp_path / "c")

    everything = evaluation.list_confusions("char")
    german = evaluation.list_confusions("char", "de")

    assert sum(c.count for c in everything) == evaluation.micro.chars.num_errors
    assert sum(c.count for c in german) == evaluation.by_language["de"].chars.num_errors
    assert not any(c.reference in "abcdefghij" for c in german if c.reference)
    assert len(planted) == len(evaluation.utterances)


def test_intervals_hold_the_rate_and_shrink_with_more_utterances(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "few", num_utterances=10)
    make_spelled_corpus(tmp_path / "many", num_utterances=60)

    widths = []
    for name in ("few", "many"):
        evaluation = run(tmp_path / name)

        rates = [s.cer for s in evaluation.by_source.values()]
        rates += [
            evaluation.micro.wer,
            evaluation.macro_languages.cer,
            evaluation.macro_sources.wer,
        ]

        for rate in rates:
            assert rate.low is not None
            assert rate.high is not None
            assert rate.low < rate.value < rate.high

        assert evaluation.micro.cer.high is not None
        assert evaluation.micro.cer.low is not None
        widths.append(evaluation.micro.cer.high - evaluation.micro.cer.low)

    assert widths[1] < widths[0]


def test_one_utterance_has_no_interval(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)

    # The fourth source has one utterance.
    scores = run(tmp_path / "c").by_source["ru-read"]

    assert scores.num_utterances == 1
    assert (scores.cer.low, scores.cer.high) == (None, None)


def test_numbers_do_not_depend_on_batches_or_windows(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c")

    expected = run(tmp_path / "c")

    for options in (
        EmissionOptions(batch_s=0.1, num_readers=1),
        EmissionOptions(batch_s=500.0, num_readers=3),
    ):
        assert run(tmp_path / "c", options=options) == expected


def test_batches_hold_utterances_of_about_one_length(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=30)

    recognizer = SpelledRecognizer()
    run(tmp_path / "c", recognizer=recognizer)

    padded = sum(len(batch) * max(batch) for batch in recognizer.batches)

    assert padded < 1.15 * sum(map(sum, recognizer.batches))
    assert all(len(batch) * max(batch) <= 15 * RATE for batch in recognizer.batches)


def test_long_utterance_is_cut_into_windows(tmp_path: Path) -> None:
    planted = make_spelled_corpus(tmp_path / "c")

    recognizer = SpelledRecognizer()
    options = EmissionOptions(max_segment_s=2.0, batch_s=4.0, num_readers=2)
    evaluation = run(tmp_path / "c", options=options, recognizer=recognizer)

    assert [u.hypothesis for u in evaluation.utterances] == [p.hypothesis for p in planted]
    assert max(map(max, recognizer.batches)) <= 2 * RATE


def test_bad_recordings_are_named_counted_and_left_out(tmp_path: Path) -> None:
    planted = make_spelled_corpus(tmp_path / "c")
    audio = tmp_path / "c" / "en-read" / "audio"

    (audio / "00 ü.flac").unlink()
    (audio / "01 ü.flac").write_bytes(b"not audio")
    soundfile.write(audio / "02 ü.flac", spell("longer than the manifest says"), RATE)

    # Its header is whole, so only reading finds out.
    data = bytearray((audio / "04 ü.flac").read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (audio / "04 ü.flac").write_bytes(bytes(data))

    evaluation = run(tmp_path / "c")

    assert len(evaluation.utterances) == len(planted) - 4

    found = {u.id: u.reason for u in evaluation.left_out}

    assert found.pop("audio/04 ü.flac") in ("truncated", "unreadable")
    assert found == {
        "audio/00 ü.flac": "missing",
        "audio/01 ü.flac": "unreadable",
        "audio/02 ü.flac": "wrong length",
    }

    for left_out in evaluation.left_out:
        assert left_out.source == "en-read"
        assert str(tmp_path / "c" / "en-read" / left_out.id) in left_out.message


def test_empty_and_refused_texts_are_named_counted_and_left_out(tmp_path: Path) -> None:
    planted = make_spelled_corpus(tmp_path / "c")
    file = tmp_path / "c" / "de-read" / "test.wrd"

    lines = file.read_text().splitlines()
    lines[0], lines[1], lines[2] = "", "...", "es ist 3 uhr"
    file.write_text("".join(f"{line}\n" for line in lines))

    evaluation = run(tmp_path / "c")

    assert Counter(u.reason for u in evaluation.left_out) == {"no text": 2, "refused text": 1}
    assert f"{file}:3" in evaluation.left_out[2].message
    assert "`3`" in evaluation.left_out[2].message
    assert len(evaluation.utterances) == len(planted) - 3
    assert evaluation.by_source["de-read"].num_utterances == 7


def test_source_of_which_nothing_can_be_read_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c")

    for file in (tmp_path / "c" / "ru-read" / "audio").iterdir():
        file.unlink()

    for file in (tmp_path / "c" / "de-read" / "audio").iterdir():
        # Whole by its header.
        samples, _ = soundfile.read(file, dtype="float32")
        soundfile.write(file, samples * np.nan, RATE, format="WAV", subtype="FLOAT")

    evaluation = run(tmp_path / "c")

    assert [source.name for source in evaluation.sources] == ["en-read", "en-film"]
    assert list(evaluation.by_language) == ["en"]
    assert set(evaluation.left_out_sources) == {"ru-read", "de-read"}
    assert Counter(u.reason for u in evaluation.left_out) == {"missing": 9, "not finite": 10}


def test_nothing_to_evaluate_is_one_sentence(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)

    for file in (tmp_path / "c").glob("*/audio/*"):
        file.write_bytes(b"")

    with pytest.raises(InputError, match="no utterance of the split `test` can be evaluated"):
        run(tmp_path / "c")


def test_nothing_that_can_be_decoded_is_one_sentence(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)

    for file in (tmp_path / "c").glob("*/audio/*"):
        samples, _ = soundfile.read(file, dtype="float32")
        soundfile.write(file, samples * np.nan, RATE, format="WAV", subtype="FLOAT")

    with pytest.raises(InputError, match="no recording can be read; the first of 14"):
        run(tmp_path / "c")


def test_missing_split_lists_those_that_there_are(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", split="valid")

    with pytest.raises(InputError, match=r"no source has the split `test`.*`train`, `valid`"):
        run(tmp_path / "c")


def test_source_without_the_split_is_left_out_by_name_unless_asked_for(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c")

    (tmp_path / "c" / "en-film" / "test.tsv").unlink()
    (tmp_path / "c" / "ru-read" / "test.wrd").unlink()

    evaluation = run(tmp_path / "c")

    assert set(evaluation.left_out_sources) == {"en-film", "ru-read"}
    assert set(evaluation.by_source) == {"en-read", "de-read"}

    with pytest.raises(InputError, match=r"en-film/test\.tsv: the source has no such split"):
        run(tmp_path / "c", names=["en-read", "en-film"])


def test_unknown_language_fails_with_the_known_ones_unless_sources_are_chosen(
    tmp_path: Path,
) -> None:
    make_spelled_corpus(tmp_path / "c")
    file = tmp_path / "c" / "sources.tsv"
    file.write_text(file.read_text().replace("\tde\t", "\txx\t").replace("\tru\t", "\tyy\t"))

    with pytest.raises(InputError) as caught:
        run(tmp_path / "c")

    for part in ("`de-read`, `ru-read`", "`xx`, `yy`", "`en`, `de`, `ru`", "--source en-read"):
        assert part in str(caught.value)

    evaluation = run(tmp_path / "c", names=["en-film", "en-read"])

    assert list(evaluation.by_source) == ["en-film", "en-read"]
