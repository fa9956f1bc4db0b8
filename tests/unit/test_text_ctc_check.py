"""The check before fine-tuning: each fault is found where it was planted, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_text import CHARACTERS_PER_S, RATE, Planted

from eqssl_speech.error import InputError
from eqssl_speech.text.build import build_tokenizer
from eqssl_speech.text.ctc_check import CtcCheck
from eqssl_speech.text.findings import REMEDIES, Finding


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def list_places(check: CtcCheck, kind: str) -> list[str]:
    places = [f.where for f in check.findings if f.kind == kind]

    return ["/".join(place.split("/")[-2:]) for place in places]


def find(check: CtcCheck, kind: str) -> Finding:
    (finding,) = [f for f in check.findings if f.kind == kind]

    return finding


def test_nothing_is_found_in_good_text(planted: Planted) -> None:
    for split, count in (("train", 60), ("valid", 20), ("test", 20)):
        planted.add(split, planted.make_lines(count))

    check = planted.check()

    assert check.findings == []
    assert check.untrainable == []
    assert check.list_rows() == [["source", "utterances", "usable"], ["it", "100", "100"]]
    assert list(check.list_lines(None)) == []


def test_labels_that_do_not_fit_are_impossible(planted: Planted) -> None:
    lines = planted.make_lines(30)
    # 6 labels and 2 equal pairs need 8 frames, which 400 + 7 * 320 samples are just long enough for.
    lines[3] = lines[4] = "aabbcd"
    lines[5] = "cab"
    planted.add("train", lines, lengths={3: 400 + 7 * 320, 4: 400 + 7 * 320 - 1})
    planted.add("valid", planted.make_lines(5))

    check = planted.check()

    assert list_places(check, "impossible") == ["it/train.tsv:6"]
    assert find(check, "impossible").message == "6 labels need 8 frames, but there are 7: `aabbcd`"
    assert check.num_usable == {"it": 34}
    # It is not reported twice.
    assert "it/train.tsv:6" not in list_places(check, "too fast")


def test_lengths_are_those_at_the_rate_of_the_model(planted: Planted) -> None:
    planted.add("train", ["abcdefgh"] * 2, lengths={0: 400 + 7 * 320, 1: 400 + 7 * 320})
    planted.add("valid", ["a"])

    # What counts is the report, whatever the manifest says.
    planted.reports[0].num_samples[1] //= 2

    assert list_places(planted.check(), "impossible") == ["it/train.tsv:3"]


def test_labels_are_those_that_a_model_is_taught(planted: Planted) -> None:
    # A space is a label, and what the vocabulary lacks is none.
    planted.add("train", ["a b"] * 2, lengths={0: 400 + 2 * 320 - 1})
    planted.add("valid", ["axxb"] * 2, lengths={0: 400 + 320, 1: 400 + 320 - 1})

    tokenizer = build_tokenizer(planted.load()).tokenizer

    for options in ({}, {"tokenizer": tokenizer}):
        places = list_places(planted.check(**options), "impossible")
        assert places == ["it/train.tsv:2", "it/valid.tsv:3"]


def test_pieces_need_fewer_frames_than_characters(planted: Planted) -> None:
    planted.add("train", ["cantare cantare cantare"] * 30, lengths={0: 400 + 12 * 320})
    planted.add("valid", ["cantare"])

    assert list_places(planted.check(), "impossible") == ["it/train.tsv:2"]

    tokenizer = build_tokenizer(planted.load(), kind="bpe", vocab_size=14).tokenizer

    assert list_places(planted.check(tokenizer=tokenizer), "impossible") == []


def test_text_that_is_left_out_is_named_with_its_reason(planted: Planted) -> None:
    lines = planted.make_lines(30)
    lines[1], lines[2], lines[3] = "ho 3 gatti", "...", ""
    planted.add("train", lines)
    planted.add("valid", ["R&B", "luna"])

    check = planted.check()

    assert list_places(check, "refused") == ["it/train.tsv:3", "it/valid.tsv:2"]
    assert list_places(check, "empty") == ["it/train.tsv:4", "it/train.tsv:5"]
    assert "the digit `3`" in check.findings[0].message
    assert check.num_usable == {"it": 28}


def test_characters_that_only_other_splits_have_are_unknown(planted: Planted) -> None:
    planted.add("train", planted.make_lines(30))
    planted.add("valid", ["luna", "ñandù", "luna ø"])
    planted.add("train", ["ø"], name="da", language="da")
    planted.add("valid", ["ø"], name="da", language="da")

    check = planted.check()

    assert list_places(check, "unknown") == ["it/valid.tsv:3"]
    assert find(check, "unknown").message.startswith("the vocabulary lacks ñ:")
    # They are not what makes it unusable.
    assert check.num_usable["it"] == 33


def test_rare_characters_of_a_tokenizer_are_unknown(planted: Planted) -> None:
    planted.add("train", [*planted.make_lines(30), "xilofono"])
    planted.add("valid", ["luna"])

    tokenizer = build_tokenizer(planted.load(), min_char_count=2).tokenizer

    assert list_places(planted.check(tokenizer=tokenizer), "unknown") == ["it/train.tsv:32"]
    assert list_places(planted.check(), "unknown") == []


def test_odd_rates_are_found_on_both_sides(planted: Planted) -> None:
    lines = planted.make_lines(60)
    lengths = {
        7: round(len(lines[7]) * RATE / (2.2 * CHARACTERS_PER_S)),
        8: round(len(lines[8]) * RATE / (CHARACTERS_PER_S / 4.6)),
        # Within what is usual.
        9: round(len(lines[9]) * RATE / (1.3 * CHARACTERS_PER_S)),
        10: round(len(lines[10]) * RATE / (CHARACTERS_PER_S / 3)),
    }
    planted.add("train", lines, lengths=lengths)
    planted.add("valid", planted.make_lines(10))

    check = planted.check()

    assert list_places(check, "too fast") == ["it/train.tsv:9"]
    assert list_places(check, "too slow") == ["it/train.tsv:10"]

    rate = len(lines[7].replace(" ", "")) * RATE / lengths[7]
    assert find(check, "too fast").message.startswith(f"{rate:.1f} characters/s, median ")


def test_each_source_has_its_own_rate(planted: Planted) -> None:
    slow = planted.make_lines(30)
    lengths = {i: 5 * round(len(line) * RATE / CHARACTERS_PER_S) for i, line in enumerate(slow)}

    planted.add("train", planted.make_lines(30))
    planted.add("valid", planted.make_lines(5))
    planted.add("train", slow, name="slow", language="it", lengths=lengths)
    planted.add("valid", planted.make_lines(1), name="slow", language="it", lengths={0: 5 * RATE})

    assert {f.source for f in planted.check().findings if f.kind == "too slow"} == set()


def test_text_of_an_earlier_split_is_repeated(planted: Planted) -> None:
    train, valid = planted.make_lines(30), planted.make_lines(5)
    planted.add("train", [*train, train[0]])
    planted.add("valid", [*valid, train[4].upper() + "!"])
    planted.add("test", [valid[2], train[5]])
    planted.add("train", train, name="other")
    planted.add("valid", planted.make_lines(2), name="other")

    check = planted.check()

    assert list_places(check, "repeated") == ["it/valid.tsv:7", "it/test.tsv:2", "it/test.tsv:3"]
    messages = [f.message for f in check.findings if f.kind == "repeated"]
    assert f"{planted.directory}/it/train.tsv:6: " in messages[0]
    assert f"{planted.directory}/it/valid.tsv:4: " in messages[1]


def test_casing_that_differs_within_a_source_is_counted(planted: Planted) -> None:
    lines = [line.capitalize() for line in planted.make_lines(97)]
    lines += [line.upper() for line in planted.make_lines(3)]
    planted.add("train", lines)
    # A letter says nothing.
    planted.add("valid", ["A"])

    finding = find(planted.check(), "casing")

    assert finding.count == 3
    assert finding.where.endswith("it/train.tsv:99")
    assert finding.message == (
        "3 of 100 utterances, first this one, have capital letters only, but most have both"
    )


def test_few_utterances_of_another_casing_are_not_worth_a_word(planted: Planted) -> None:
    planted.add("train", [*planted.make_lines(98), "OH NO", "NO"])
    planted.add("valid", ["luna"])

    assert list_places(planted.check(), "casing") == []


def test_casing_that_differs_between_sources_of_a_language_is_found(planted: Planted) -> None:
    for name, language in (("a", "it"), ("b", "it"), ("c", "en")):
        for split in ("train", "valid"):
            lines = planted.make_lines(10)
            lines = lines if name == "a" else [line.upper() for line in lines]
            planted.add(split, lines, name=name, language=language)

    finding = find(planted.check(), "casing")

    assert (finding.source, finding.count) == ("b", 20)
    assert finding.message == (
        "b has capital letters only, but a of the same language has small letters only"
    )


def test_letters_of_two_alphabets_in_one_word_are_found(planted: Planted) -> None:
    # The second `cоme` has a Cyrillic letter.
    planted.add("train", ["come мир", "cоme", "日本の", "città più"])
    planted.add("valid", ["come", "οικόσιτo"])

    check = planted.check()

    assert list_places(check, "scripts") == ["it/train.tsv:3", "it/valid.tsv:3"]
    assert [f.message for f in check.findings if f.kind == "scripts"] == [
        "`cоme` has Cyrillic and Latin letters",
        "`οικόσιτo` has Greek and Latin letters",
    ]


def test_remarks_in_brackets_are_found(planted: Planted) -> None:
    planted.add("train", ["[ride] come", "come {eh}", "come (o no)", "[ride"])
    planted.add("valid", ["come"])

    assert list_places(planted.check(), "brackets") == ["it/train.tsv:2", "it/train.tsv:3"]


def test_source_of_which_nothing_can_be_used_is_untrainable(planted: Planted) -> None:
    planted.add("train", ["1", "...", "luna", "sera"], lengths={2: 400}, bad=[3])
    planted.add("valid", planted.make_lines(2))

    (sentence,) = planted.check().untrainable

    assert sentence == (
        f"{planted.directory}/it/train.tsv: none of the 4 utterances of the source `it` can be used (1 impossible, "
        "1 refused, 1 empty, 1 with a bad recording); correct them as said above, or leave the source out."
    )


def test_source_that_cannot_be_validated_is_untrainable(planted: Planted) -> None:
    planted.add("train", planted.make_lines(2))
    planted.add("valid", ["1"])

    assert "valid.tsv: none of the 1 utterances" in planted.check().untrainable[0]


def test_test_split_of_which_nothing_can_be_used_does_not_matter(planted: Planted) -> None:
    planted.add("train", planted.make_lines(2))
    planted.add("valid", planted.make_lines(2))
    planted.add("test", ["1"])

    assert planted.check().untrainable == []


def test_source_without_validation_text_is_untrainable(planted: Planted) -> None:
    planted.add("train", planted.make_lines(2))

    (sentence,) = planted.check().untrainable

    assert "has no validation text (valid.wrd)" in sentence


def test_source_whose_language_the_tokenizer_lacks_is_untrainable(planted: Planted) -> None:
    for name in ("it", "en"):
        for split in ("train", "valid"):
            planted.add(split, planted.make_lines(3), name=name, language=name)

    tokenizer = build_tokenizer(planted.load(), ["en"]).tokenizer
    check = planted.check(tokenizer=tokenizer)

    assert list(check.num_utterances) == ["en"]
    assert "language `it`; the known ones are `en`" in check.untrainable[0]


def test_bad_recordings_are_not_looked_at(planted: Planted) -> None:
    # One label fits into the last, which has a single frame; those of the others would not.
    lines = [*planted.make_lines(4), "a"]
    planted.add("train", lines, lengths={0: 400, 1: 400, 4: 400}, bad=[0, 1])
    planted.add("valid", planted.make_lines(2))

    check = planted.check()

    assert check.findings == []
    assert check.list_rows() == [
        ["source", "utterances", "usable", "bad recording"],
        ["it", "7", "5", "2"],
    ]


def test_split_whose_manifest_is_bad_is_left_to_those_who_found_it(planted: Planted) -> None:
    planted.add("train", planted.make_lines(5))
    planted.add("valid", planted.make_lines(2))
    planted.reports.pop()

    assert planted.check().num_utterances == {"it": 5}
    assert planted.check().untrainable == []


def test_findings_are_listed_by_kind_with_the_remedy(planted: Planted) -> None:
    for name in ("a", "b"):
        planted.add("train", ["1", "2", "3", "luna {x}", "..."], name=name)
        planted.add("valid", ["luna"], name=name)

    check = planted.check()
    lines = list(check.list_lines(2))

    assert lines[:6] == [
        "",
        f"refused (6): {REMEDIES['refused']}.",
        f"  {planted.directory}/a/train.tsv:2: the text holds the digit `1`, whose spoken form is not written: `1`",
        f"  {planted.directory}/a/train.tsv:3: the text holds the digit `2`, whose spoken form is not written: `2`",
        "  and 1 more of a; `--all` names all",
        f"  {planted.directory}/b/train.tsv:2: the text holds the digit `1`, whose spoken form is not written: `1`",
    ]
    assert [line.split(" ")[0] for line in lines if line.endswith(".")] == [
        "refused",
        "empty",
        "brackets",
    ]
    assert not any("more of" in line for line in check.list_lines(None))
    assert check.list_rows()[0] == [
        "source",
        "utterances",
        "usable",
        "refused",
        "empty",
        "brackets",
    ]
    assert check.list_rows()[1] == ["a", "6", "2", "3", "1", "1"]


def test_text_that_does_not_fit_its_manifest_is_named(planted: Planted) -> None:
    planted.add("train", ["luna", "sera"])
    planted.add("valid", ["luna"])
    (planted.directory / "it" / "train.wrd").write_text("luna\n")

    with pytest.raises(InputError, match=r"train\.wrd: has 1 lines, but .* has 2"):
        planted.check()
