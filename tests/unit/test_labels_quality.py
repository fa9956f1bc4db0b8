"""What is measured of labels, against numbers worked out by hand and by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eqssl_speech.labels.quality import LabelTally, measure_phones
from eqssl_speech.labels.settings import MFCC, FeatureStamp

LAYER = FeatureStamp("layer", 320, 8)


def tally(*utterances: list[int], num_codes: int = 4) -> LabelTally:
    made = LabelTally(num_codes, MFCC)
    for labels in utterances:
        made.count(np.array(labels, dtype=np.int64))

    return made


def test_measures_of_labels_are_those_of_their_counts() -> None:
    measures = tally([0, 0, 1, 1, 1, 0], [2, 2], []).measure()

    assert measures.num_utterances == 2
    assert measures.num_labels == 8
    assert measures.num_codes == 4
    assert measures.num_used == 3
    # Three eighths, three eighths and a quarter.
    entropy = 2 * 3 / 8 * math.log2(8 / 3) + 2 / 8 * 2
    assert measures.entropy_bits == pytest.approx(entropy)
    assert measures.perplexity == pytest.approx(2**entropy)
    assert measures.top_share == 3 / 8
    # A run does not go on into the next utterance.
    assert measures.mean_run_ms == pytest.approx(10 * 8 / 4)
    assert measures.hours == pytest.approx(0.08 / 3600)
    assert measures.phones is None


def test_tallies_add_up() -> None:
    first, second = [0, 1, 1, 3], [3, 3, 2]
    together, one, other = tally(first, second), tally(first), tally(second)

    for made, labels in ((together, first), (together, second), (one, first), (other, second)):
        made.count_phones(np.array(labels), "ru", [(0.0, 0.03, "a"), (0.03, 9.0, "b")])
        made.distance += len(labels)

    one.add(other)

    assert one.measure() == together.measure()
    assert one.measure().distance == 1.0
    assert one.measure(2).num_codes == 2


def test_nothing_counted_gives_numbers() -> None:
    measures = tally([]).measure()

    assert (measures.num_labels, measures.num_used, measures.entropy_bits) == (0, 0, 0.0)


def test_a_label_has_the_phone_at_the_middle_of_its_frame() -> None:
    # 25 ms from 0, 20, 40, ... ms on have their middle at 12.5, 32.5, 52.5, ... ms.
    made = LabelTally(5, LAYER)
    made.count_phones(
        np.array([0, 1, 2, 3, 4]),
        "ru",
        [(0.0, 0.0324, "a"), (0.0326, 0.0724, "b"), (0.08, 9.0, "a")],
    )

    found = {phone: counts.tolist() for phone, counts in made.phones.items()}

    assert found == {("ru", "a"): [1, 0, 0, 0, 1], ("ru", "b"): [0, 0, 1, 0, 0]}


def test_a_label_in_which_phones_overlap_counts_once() -> None:
    # Middles at 12.5, 22.5, 32.5 and 42.5 ms; that at 22.5 ms lies in the first two, the next in the second and third.
    phones = [(0.0, 0.025, "a"), (0.020, 0.035, "b"), (0.030, 0.034, "c"), (0.034, 0.05, "a")]

    for order in (phones, phones[::-1]):
        made = LabelTally(4, MFCC)
        made.count_phones(np.array([0, 1, 2, 3]), "ru", order)

        found = {phone: counts.tolist() for (_, phone), counts in made.phones.items()}

        assert found == {"a": [1, 1, 0, 1], "b": [0, 0, 1, 0]}


def test_phones_of_two_languages_are_told_apart() -> None:
    made = tally()
    for language in ("ru", "es"):
        made.count_phones(np.array([0, 1]), language, [(0.0, 1.0, "a")])

    assert made.measure().phones is not None
    assert made.measure().phones.num_phones == 2  # type: ignore[union-attr]


def test_purities_and_pnmi_follow_their_definitions() -> None:
    joint = np.random.default_rng(1).integers(1, 50, (6, 9))
    joint[2, 3] = 0
    measures = measure_phones(list(joint))
    assert measures is not None

    p = joint / joint.sum()
    of_phones, of_labels = p.sum(1), p.sum(0)

    phone_purity = sum(of_labels[z] * max(p[:, z] / of_labels[z]) for z in range(9))
    cluster_purity = sum(of_phones[y] * max(p[y] / of_phones[y]) for y in range(6))
    shared = sum(
        p[y, z] * math.log(p[y, z] / of_phones[y] / of_labels[z])
        for y in range(6)
        for z in range(9)
        if p[y, z] > 0
    )
    entropy = -sum(x * math.log(x) for x in of_phones)

    assert measures.phone_purity == pytest.approx(phone_purity)
    assert measures.cluster_purity == pytest.approx(cluster_purity)
    assert measures.pnmi == pytest.approx(shared / entropy)
    assert (measures.num_phones, measures.num_labels) == (6, joint.sum())


def test_labels_that_are_phones_tell_all_and_constant_ones_nothing() -> None:
    perfect = measure_phones(list(np.diag([5, 3, 2])))
    nothing = measure_phones([np.array([5, 0]), np.array([3, 0])])
    finer = measure_phones([np.array([5, 5, 0]), np.array([0, 0, 3])])

    assert perfect is not None
    assert nothing is not None
    assert finer is not None
    assert (perfect.phone_purity, perfect.cluster_purity) == (1.0, 1.0)
    assert perfect.pnmi == pytest.approx(1.0)
    assert (nothing.phone_purity, nothing.cluster_purity) == (5 / 8, 1.0)
    assert nothing.pnmi == pytest.approx(0.0)
    assert (finer.phone_purity, finer.cluster_purity) == (1.0, 8 / 13)
    assert finer.pnmi == pytest.approx(1.0)

    assert measure_phones([]) is None
    assert measure_phones([np.zeros(3, np.int64)]) is None
