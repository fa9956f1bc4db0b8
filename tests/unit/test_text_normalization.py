"""Normalisation: every rule on text that people write, and what must hold for any text whatsoever."""

from __future__ import annotations

import json
import random
import unicodedata
from dataclasses import replace

import pytest

from eqssl_speech.error import InputError
from eqssl_speech.text.languages import LANGUAGES_WITH_RULES, make_rules
from eqssl_speech.text.normalization import TextNormalizer, TextRefusedError
from eqssl_speech.text.rules import CASES, RuleOverrides, TextRules

KEEP = RuleOverrides(case="keep", punctuation="keep", digits="keep")


def normalize(language: str, text: str, overrides: RuleOverrides | None = None) -> str:
    return TextNormalizer(make_rules(language, overrides))(text)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "It’s — a “Test”, isn't  it?", "it's a test isn't it"),
        ("en", "'Quoted' rock ’n’ roll, x-ray", "quoted rock n roll x ray"),
        ("fr", "L’école  d`été", "l'école d'été"),
        ("uk", "мʼята п´ять", "м'ята п'ять"),
        ("tr", "IŞIK İstanbul’da DİYARBAKIR", "ışık istanbul'da diyarbakır"),
        ("az", "i\u0307şıq", "işıq"),
        ("en", "İ", "i"),
        ("el", "Ο ΔΡΌΜΟΣ.ΚΑΙ ΣΟΦΌΣ,", "ο δρόμος και σοφός"),
        ("de", "STRAẞE, Straße; geht's?", "straße straße geht's"),
        ("ru", "З+амок за́мок ѐлка всё й", "замок замок елка всё й"),
        ("rus", "за́мок", "замок"),
        ("bg", "ѝ а\u0300", "ѝ а"),
        ("ca", "col·lecció coŀlecció · fi", "col·lecció col·lecció fi"),
        ("es", "¿Qué·tal?", "qué tal"),
        ("ro", "şi ŢARĂ", "și țară"),
        ("ro-MD", "şi", "și"),
        ("uz", "O‘zbek tog‘ ma’no", "oʻzbek togʻ ma'no"),
        ("ar", "مُحَمَّدـ", "محمد"),
        ("fa", "كتاب علي", "کتاب علی"),
        ("he", 'צה״ל צה"ל "שלום"', 'צה"ל צה"ל שלום'),
        ("ml", "അവന്\u200d ഒ", "അവൻ ഒ"),
        ("hi", "हिन्दी\u200c में।", "हिन्दी में"),
        ("th", "น้ำ ดี", "น้ำ ดี"),
        ("en", "▁a\u200bb\u00ad \x00c\u2028d\ufeff\u00a0e", "ab c d e"),
        ("en", "e\u200b\u0301 \u0301a ...", "é a"),
        ("en", "", ""),
    ],
)
def test_text_is_written_as_its_language_has_it(language: str, text: str, expected: str) -> None:
    assert normalize(language, text) == unicodedata.normalize("NFC", expected)


def test_what_is_kept_stays_as_it_is() -> None:
    assert normalize("en", "Hi, it’s 3\tmen -- & 'so'!", KEEP) == "Hi, it's 3 men -- & 'so'!"


def test_dropped_digits_and_punctuation_separate_words() -> None:
    assert normalize("en", "a1b,c-'d", RuleOverrides(digits="drop")) == "a b c d"


def test_inner_signs_stay_only_between_letters() -> None:
    overrides = RuleOverrides(inner="-'", digits="keep")

    assert normalize("en", "-x-ray- don't 4-a a- b '-c", overrides) == "x-ray don't 4-a a b c"
    assert normalize("hi", "हि-न्दी", overrides) == "हि-न्दी"
    assert normalize("en", "don't", RuleOverrides(inner="")) == "don t"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("only 3 men", "the digit `3`"),
        ("Ⅳ", "the digit `Ⅳ`"),
        ("٣", "the digit `٣`"),
        ("100 %", "the digit `1`"),
        ("R&D", "holds `&`"),
        ("<noise>", "holds `<`"),
        ("€", "holds `€`"),
        ("a\ufffdb", r"U\+FFFD, which is not a character"),
        ("a\ue000b", r"U\+E000"),
        ("a\udc80b", r"U\+DC80"),
    ],
)
def test_text_whose_spoken_form_is_not_known_is_refused(text: str, fault: str) -> None:
    with pytest.raises(TextRefusedError, match=fault):
        normalize("en", text)


@pytest.mark.parametrize("text", ["a, b", "'a b'", "a' b", "a (b)"])
def test_punctuation_is_refused_where_the_rules_say_so(text: str) -> None:
    overrides = RuleOverrides(punctuation="refuse")

    assert normalize("en", "it's a b", overrides) == "it's a b"

    with pytest.raises(TextRefusedError, match="punctuation mark"):
        normalize("en", text, overrides)


def make_random_text(rng: random.Random) -> str:
    # What meets in the rules, and anything else that Unicode has.
    hot = (
        "aIiİıSΣσςßŞşţoOgG'’ -+.eиеёЕǰJhH=3%״א·ŀl\u0300\u0301\u0306\u0307\u030c\u0327\u0331\u0338\u0345\u05b0\u064b"
        "ـا\u0653\u0654\u200b\u200d\ufe0f\u034f\u2581\u0d4d\u0d28\u1100\u1160\u11a8"
    )

    return "".join(
        rng.choice(hot) if rng.random() < 0.7 else chr(rng.randrange(0x110000))
        for _ in range(rng.randrange(1, 10))
    )


def test_normalising_again_changes_nothing() -> None:
    rng = random.Random(1)
    num_normalized = 0

    for _ in range(10_000):
        rules = replace(
            make_rules(rng.choice([*LANGUAGES_WITH_RULES, "en"])),
            case=rng.choice(CASES),
            punctuation=rng.choice(("keep", "drop")),
            digits=rng.choice(("keep", "drop")),
            inner=rng.choice(("", "'", "-'")),
        )
        normalizer, text = TextNormalizer(rules), make_random_text(rng)
        try:
            once = normalizer(text)
        except TextRefusedError:
            continue

        num_normalized += 1
        assert normalizer(once) == once, (rules, text)
        assert unicodedata.is_normalized("NFC", once)
        assert once == " ".join(once.split())
        assert not set(once) & set("\u2581\u200b\u200d\ufe0f\u034f\u1160")

    assert num_normalized > 2_000


def test_small_letters_and_single_spaces_are_all_that_is_left_by_default() -> None:
    rng = random.Random(2)

    for _ in range(5_000):
        text = make_random_text(rng)
        try:
            result = normalize("en", text)
        except TextRefusedError:
            continue

        assert all(c in " '" or unicodedata.category(c)[0] in "LM" for c in result), text
        assert result.lower() == result


@pytest.mark.parametrize("language", ["en", "xx", "und", "pt-BR", "tlh"])
def test_language_without_rules_of_its_own_has_the_common_ones(language: str) -> None:
    assert make_rules(language) == TextRules()


@pytest.mark.parametrize("language", [*LANGUAGES_WITH_RULES, "en"])
def test_rules_survive_the_round_trip(language: str) -> None:
    rules = make_rules(language, RuleOverrides(case="keep", punctuation="refuse"))

    assert TextRules.from_json("x", json.loads(json.dumps(rules.to_json()))) == rules


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"case": "upper"}, "`case` must be one of lower, keep, but is 'upper'"),
        ({"digits": None}, "`digits` cannot be None"),
        ({"replaced": [["a"]]}, "`replaced` cannot be"),
        ({"new": 1}, "exactly the fields"),
    ],
)
def test_damaged_rules_are_named(change: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as info:
        TextRules.from_json("tokenizer.json, en", {**TextRules().to_json(), **change})

    assert str(info.value).startswith("tokenizer.json, en: ")
