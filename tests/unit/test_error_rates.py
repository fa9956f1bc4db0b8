"""Error rates are jiwer's, minimal, defined at 0 and above 1, and have intervals that hold what they should."""

from __future__ import annotations

import math
import random
from collections import Counter

import jiwer
import numpy as np
import pytest

from eqssl_speech.decoding.error_rates import (
    Confusion,
    ErrorCounts,
    Unit,
    bootstrap_interval,
    bootstrap_macro_interval,
    confusions,
    count_errors,
    macro_rate,
    split_units,
    sum_counts,
)

# Words that share letters, in several scripts, so that edits of characters do not follow those of words.
WORDS = ["a", "an", "ant", "tan", "не", "нет", "ет", "ñandú", "മല", "മലയ", "ß", "ss", "l'ami", "97"]


def draw_text(generator: random.Random, max_num_words: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(0, max_num_words)))


def draw_pairs(num_pairs: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs of texts of which some are equal, some nearly, and some empty on either side or both."""
    generator = random.Random(seed)
    pairs = []

    for _ in range(num_pairs):
        reference = draw_text(generator, 8)
        kept = [w for w in reference.split() if generator.random() > 0.2]
        near = " ".join(generator.choice(WORDS) if generator.random() < 0.2 else w for w in kept)
        pairs.append((reference, generator.choice([reference, near, draw_text(generator, 8), ""])))

    return pairs


def count_by_brute_force(reference: list[str], hypothesis: list[str]) -> int:
    """Return the least number of edits, trying all of them one after the other."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)

    return min(
        count_by_brute_force(reference[1:], hypothesis[1:]) + (reference[0] != hypothesis[0]),
        count_by_brute_force(reference[1:], hypothesis) + 1,
        count_by_brute_force(reference, hypothesis[1:]) + 1,
    )


def test_counts_of_a_thousand_random_pairs_are_those_of_jiwer() -> None:
    pairs = draw_pairs(1000, seed=0)

    assert sum(1 for r, _ in pairs if not r) > 20
    assert sum(1 for r, h in pairs if r and not h) > 20
    assert sum(1 for r, h in pairs if not r and not h) > 5

    for reference, hypothesis in pairs:
        for unit, process in (("word", jiwer.process_words), ("char", jiwer.process_characters)):
            expected = process(reference, hypothesis)
            found = count_errors(reference, hypothesis, unit)

            assert found == ErrorCounts(
                expected.substitutions, expected.deletions, expected.insertions, expected.hits
            ), (reference, hypothesis, unit)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_sums_over_utterances_are_those_of_jiwer(unit: Unit) -> None:
    references, hypotheses = zip(*draw_pairs(300, seed=1), strict=True)

    total = sum_counts(count_errors(r, h, unit) for r, h in zip(references, hypotheses))

    rate = {"word": jiwer.wer, "char": jiwer.cer}[unit](list(references), list(hypotheses))

    assert total.rate == pytest.approx(rate, rel=1e-12)


def test_errors_are_as_few_as_any_edits_can_be() -> None:
    generator = random.Random(2)

    for _ in range(300):
        reference = generator.choices("abc", k=generator.randint(0, 5))
        hypothesis = generator.choices("abc", k=generator.randint(0, 5))

        words = count_errors(" ".join(reference), " ".join(hypothesis), "word")
        chars = count_errors("".join(reference), "".join(hypothesis), "char")

        assert words == chars
        assert words.num_errors == count_by_brute_force(reference, hypothesis)
        assert words.num_reference == len(reference)
        assert words.num_hypothesis == len(hypothesis)


def test_rate_is_zero_of_a_right_hypothesis_and_above_one_of_a_long_one() -> None:
    assert count_errors("ein haus", "ein haus", "word").rate == 0.0
    assert count_errors("haus", "ein altes haus im wald", "word").rate == 4.0
    assert count_errors("ein haus", "", "word") == ErrorCounts(deletions=2)
    assert count_errors("ein haus", "", "word").rate == 1.0


def test_empty_reference_counts_insertions_and_spoils_no_sum() -> None:
    inserted = count_errors("", "ein haus", "word")

    assert inserted == ErrorCounts(insertions=2)
    assert math.isinf(inserted.rate)
    assert count_errors("", "", "char").rate == 0.0
    assert sum_counts([]).rate == 0.0
    assert sum_counts([inserted, count_errors("a b c d", "a b c d", "word")]).rate == 0.5


def test_white_space_counts_as_one_character_between_words_and_as_none_at_the_ends() -> None:
    assert split_units("  ein\t\u00a0haus \n", "char") == list("ein haus")
    assert count_errors("ein haus", " ein  haus ", "char").num_errors == 0
    assert count_errors("ein haus", "einhaus", "char") == ErrorCounts(deletions=1, hits=7)


def test_macro_average_weighs_sources_alike() -> None:
    small, large = ErrorCounts(substitutions=1, hits=1), ErrorCounts(hits=98, deletions=2)

    assert macro_rate([small, large]) == pytest.approx((0.5 + 0.02) / 2)
    assert sum_counts([small, large]).rate == pytest.approx(3 / 102)

    with pytest.raises(ValueError, match="at least one source"):
        macro_rate([])


def test_confusions_are_the_edits_the_most_frequent_first() -> None:
    references = ["der hund bellt", "der hund", "das haus", ""]
    hypotheses = ["der hand bellt", "die hand", "haus", "ja"]

    assert confusions(references, hypotheses, "word") == [
        Confusion("hund", "hand", 2),
        Confusion("", "ja", 1),
        Confusion("das", "", 1),
        Confusion("der", "die", 1),
    ]
    assert confusions(references, hypotheses, "word", num_most=1) == [Confusion("hund", "hand", 2)]
    assert Confusion("u", "a", 2) in confusions(references, hypotheses, "char")


@pytest.mark.parametrize("unit", ["word", "char"])
def test_confusions_add_up_to_the_counts(unit: Unit) -> None:
    references, hypotheses = zip(*draw_pairs(200, seed=3), strict=True)

    total = sum_counts(count_errors(r, h, unit) for r, h in zip(references, hypotheses))
    found: Counter[str] = Counter()

    for confusion in confusions(references, hypotheses, unit):
        kind = "insertions" if not confusion.reference else "substitutions"
        found["deletions" if not confusion.hypothesis else kind] += confusion.count

    assert found == {
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
    }


def test_confusions_refuse_another_number_of_hypotheses() -> None:
    with pytest.raises(ValueError):
        confusions(["a", "b"], ["a"], "word")


def draw_counts(generator: np.random.Generator, num_utterances: int) -> list[ErrorCounts]:
    lengths = generator.integers(1, 20, size=num_utterances)
    errors = generator.binomial(lengths, 0.3)

    return [ErrorCounts(substitutions=int(e), hits=int(n - e)) for n, e in zip(lengths, errors)]


def test_interval_is_near_the_normal_approximation() -> None:
    counts = draw_counts(np.random.default_rng(4), 400)

    errors = np.array([c.num_errors for c in counts])
    lengths = np.array([c.num_reference for c in counts])
    rate = errors.sum() / lengths.sum()

    # The standard error of a ratio of sums (delta method).
    deviation = np.sqrt(np.square(errors - rate * lengths).sum()) / lengths.sum()

    low, high = bootstrap_interval(counts, num_resamples=4000, level=0.9, seed=1)

    # 1.645 standard errors; the ends of 4000 draws lie within a tenth of one.
    assert low == pytest.approx(rate - 1.645 * deviation, abs=0.15 * deviation)
    assert high == pytest.approx(rate + 1.645 * deviation, abs=0.15 * deviation)


def test_interval_holds_the_true_rate_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)

    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(
            draw_counts(generator, 60), num_resamples=200, level=0.8, seed=seed
        )
        held += low <= 0.3 <= high

    # 160 expected; five standard deviations of a binomial are 28.
    assert 132 <= held <= 188


def test_interval_follows_the_seed_and_nothing_else() -> None:
    counts = draw_counts(np.random.default_rng(6), 50)

    assert bootstrap_interval(counts, seed=3) == bootstrap_interval(counts, seed=3)
    assert bootstrap_interval(counts, seed=3) != bootstrap_interval(counts, seed=4)


def test_interval_of_many_utterances_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = draw_counts(np.random.default_rng(7), 50)
    whole = bootstrap_interval(counts, num_resamples=100)

    monkeypatch.setattr("eqssl_speech.decoding.error_rates._NUM_DRAWS_AT_ONCE", 350)

    assert bootstrap_interval(counts, num_resamples=100) == whole


def test_macro_interval_is_that_of_the_mean_of_the_sources() -> None:
    # A source without any variation moves the interval and does not widen it.
    counts = draw_counts(np.random.default_rng(8), 200)
    fixed = [ErrorCounts(substitutions=1, hits=1)] * 1000

    low, high = bootstrap_interval(counts, seed=2)
    macro_low, macro_high = bootstrap_macro_interval([counts, fixed], seed=2)

    assert (macro_low, macro_high) == pytest.approx(((low + 0.5) / 2, (high + 0.5) / 2))


def test_interval_is_defined_without_utterances_and_without_references() -> None:
    assert bootstrap_interval([]) == (0.0, 0.0)
    assert bootstrap_interval([ErrorCounts()] * 3) == (0.0, 0.0)
    assert bootstrap_interval([ErrorCounts(insertions=1)] * 3) == (math.inf, math.inf)

    low, high = bootstrap_interval([ErrorCounts(insertions=1), ErrorCounts(hits=1)])
    assert low == 0.0
    assert high == math.inf


@pytest.mark.parametrize(
    "options", [{"num_resamples": 0}, {"level": 0.0}, {"level": 1.0}, {"level": 95.0}]
)
def test_interval_refuses_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        bootstrap_interval([ErrorCounts(hits=1)], **options)
