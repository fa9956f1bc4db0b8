"""The speech that is clustered is drawn without an object for each window of a corpus."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.manifest import Manifest
from eqssl_speech.labels.features import FeatureExtractor, MfccExtractor, plan_windows
from eqssl_speech.labels.settings import MFCC, FeatureStamp, count_all_frames, count_frames
from eqssl_speech.tasks.labels.recordings import LabelSplit, Recordings
from eqssl_speech.tasks.labels.subset import draw_subset

HOURS = 0.5


def make_split(name: str) -> LabelSplit:
    source = DataSource(name, "und", "unknown", "unknown", Path(name))

    return LabelSplit(source, "train", Manifest(Path(name) / "train.tsv", Path(name), ()))


def make_recordings(seed: int, num_utterances: int, longest_s: float) -> Recordings:
    """Utterances of any length, of which some cannot be read."""
    rng = np.random.default_rng(seed)
    num_samples = rng.integers(0, int(longest_s * 16_000), num_utterances)
    num_samples[rng.random(num_utterances) < 0.1] = 0

    return Recordings(num_samples, ())


def test_frames_of_many_utterances_are_counted_as_of_one() -> None:
    num_samples = np.array([0, 1, 239, 240, 399, 400, 559, 560, 16_000, 123_457])

    for stamp in (MFCC, FeatureStamp("layer", 320, 8)):
        counts = count_all_frames(num_samples, stamp)

        assert counts.tolist() == [count_frames(n, stamp) for n in num_samples.tolist()]


@pytest.mark.parametrize("seed", [1, 2])
def test_windows_are_drawn_as_if_all_were_listed(seed: int) -> None:
    extractor: FeatureExtractor = MfccExtractor()
    # Of several windows; of less than its share; of nothing at all.
    recordings = [
        (make_split("long"), make_recordings(1, 50, 700.0)),
        (make_split("short"), make_recordings(2, 30, 10.0)),
        (make_split("empty"), Recordings(np.zeros(3, np.int64), ())),
    ]

    drawn = draw_subset(recordings, extractor, hours=HOURS, seed=seed)

    short = sum(count_frames(n, MFCC) for n in recordings[1][1].num_samples.tolist())
    shares = {"long": HOURS * 360_000 - short, "short": short, "empty": 0}

    for index, (split, found) in enumerate(recordings):
        listed = [
            (entry_nr, num_samples, window)
            for entry_nr, num_samples in enumerate(found.num_samples.tolist())
            for window in plan_windows(count_frames(num_samples, MFCC), extractor.max_num_frames)
        ]

        expected, total = [], 0
        for position in np.random.default_rng([seed, index]).permutation(len(listed)):
            if total < shares[split.source.name]:
                expected.append(listed[position])
                total += listed[position][2].num_frames

        items = drawn[split.source.name]
        assert [(x.entry_nr, x.num_samples, x.window) for x in items] == expected
        assert all(x.split is split for x in items)

    assert len({x.window.start for x in drawn["long"]}) > 3
    assert len(drawn["short"]) > 20
    assert drawn["empty"] == []


def test_memory_does_not_grow_by_an_object_for_each_window() -> None:
    num_utterances = 200_000
    recordings = [(make_split("many"), make_recordings(1, num_utterances, 20.0))]

    tracemalloc.start()
    try:
        drawn = draw_subset(recordings, MfccExtractor(), hours=HOURS, seed=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 100 < len(drawn["many"]) < 400
    # Some numbers of eight bytes for each; a window and what holds it are 200 bytes and more.
    assert peak < 64 * num_utterances
