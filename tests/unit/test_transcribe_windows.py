"""Windows over long recordings: together they say what one pass over the whole would."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from spelled_audio import TOKENIZER

from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.tasks.transcribe.decoder import Search
from eqssl_speech.tasks.transcribe.emission import EmissionPart
from eqssl_speech.tasks.transcribe.result import HypothesisJoiner
from eqssl_speech.tasks.transcribe.windows import (
    EmissionJoiner,
    FrameGrid,
    Window,
    plan_windows,
)


def make_emission(num_frames: int, seed: int, vocab_size: int = 7) -> torch.Tensor:
    """Make log-probabilities with pauses: runs of labels and of blanks of all lengths."""
    rng = np.random.default_rng(seed)

    labels: list[int] = []
    while len(labels) < num_frames:
        labels += [int(rng.integers(1, vocab_size))] * int(rng.integers(1, 4))
        labels += [0] * int(rng.integers(0, 12))

    logits = torch.from_numpy(rng.standard_normal((num_frames, vocab_size)))
    logits[torch.arange(num_frames), torch.tensor(labels[:num_frames])] += 6.0

    return logits.log_softmax(dim=-1)


def join(emission: torch.Tensor, max_num_frames: int, context: int = 0) -> list[torch.Tensor]:
    """Cut an emission into windows, spoil ``context`` frames at their inner ends, and join them again."""
    num_frames = len(emission)
    joiner = EmissionJoiner()
    parts = []

    for window in plan_windows(num_frames, max_num_frames):
        seen = emission[window.start : window.stop].clone()
        if context and window.start > 0:
            seen[:context] = seen[:context].roll(3, dims=1)
        if context and window.stop < num_frames:
            seen[-context:] = seen[-context:].roll(3, dims=1)

        part = joiner.push(window, seen)
        parts += [] if part is None else [part]

    return [*parts, joiner.finish()]


@pytest.mark.parametrize("num_frames", [1, 99, 100, 101, 120, 133, 134, 150, 167, 168, 500, 1234])
def test_windows_cover_a_recording_and_overlap_by_a_third(num_frames: int) -> None:
    windows = plan_windows(num_frames, 100)

    assert windows[0].start == 0
    assert windows[-1].stop == num_frames
    assert {w.num_frames for w in windows} == {min(100, num_frames)}

    for before, after in pairwise(windows):
        assert 33 <= before.stop - after.start < 100


def test_window_count_is_the_least_that_overlaps_by_a_third() -> None:
    # 100 frames, then 67 more with each window.
    assert [len(plan_windows(n, 100)) for n in (100, 101, 167, 168, 234, 235)] == [1, 2, 2, 3, 3, 4]


def test_frame_grid_counts_as_stacked_convolutions_do() -> None:
    grid = FrameGrid(320, 400)

    for num_samples in (*range(0, 2000, 7), 399, 400, 719, 720, 16_000):
        length = num_samples
        for kernel, stride in [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]:
            length = max(0, (length - kernel) // stride + 1)

        assert grid.count(num_samples) == length

    assert grid.extent(1) == 400
    assert grid.count(grid.extent(17)) == 17
    assert grid.count(grid.extent(17) - 1) == 16


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_frames", [80, 130, 161, 900])
def test_joined_emissions_equal_one_pass_where_windows_do_not_matter(
    num_frames: int, seed: int
) -> None:
    emission = make_emission(num_frames, seed)

    assert torch.equal(torch.cat(join(emission, 100)), emission)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_frames", [130, 161, 900])
def test_ends_of_windows_are_not_used(num_frames: int, seed: int) -> None:
    # Of 300 frames a window, the outer 25 at least on each side of a seam: a twelfth.
    emission = make_emission(3 * num_frames, seed)

    assert torch.equal(torch.cat(join(emission, 300, context=25)), emission)


@pytest.mark.parametrize("seed", range(5))
def test_seams_lie_in_the_middle_of_the_longest_pause_in_reach(seed: int) -> None:
    emission = make_emission(167, seed)

    # The windows are [0, 100) and [67, 167); the middle of the overlap is 83, and 8 frames either way are in reach.
    for pause in (range(71, 87), range(80, 96)):
        silent = emission.clone()
        silent[pause] = torch.tensor([0.0] + [-15.0] * 6, dtype=torch.float64)

        first, second = join(silent, 100)

        assert len(first) + len(second) == 167
        assert abs(len(first) - (pause.start + pause.stop) / 2) <= 5
        assert len(first) in pause


def test_seam_of_silence_is_the_middle_of_the_overlap() -> None:
    silence = torch.tensor([0.0, -9.0, -9.0]).repeat(167, 1)

    first, _ = join(silence, 100)

    assert len(first) == 83


@pytest.mark.parametrize("seed", range(20))
def test_parts_decode_to_what_the_whole_decodes_to(seed: int) -> None:
    emission = make_emission(1000, seed)

    # Seams within a label too, which a joiner never chooses but where there is no blank.
    cuts = sorted(np.random.default_rng(seed).integers(0, 1001, 12).tolist())

    joiner = HypothesisJoiner(Search(decode_greedy), TOKENIZER)
    for start, stop in zip([0, *cuts], [*cuts, 1000]):
        joiner.add(EmissionPart(0, start, emission[start:stop], stop == 1000))

    whole = HypothesisJoiner(Search(decode_greedy), TOKENIZER)
    whole.add(EmissionPart(0, 0, emission, True))

    assert joiner.list_tokens() == whole.list_tokens() == list(decode_greedy(emission).tokens)

    for ours, theirs in zip(joiner.spans, whole.spans, strict=True):
        assert (ours.start, ours.end) == (theirs.start, theirs.end)
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-9)


def test_single_window_is_taken_whole() -> None:
    emission = make_emission(40, 1)
    joiner = EmissionJoiner()

    assert joiner.push(Window(0, 40), emission) is None
    assert torch.equal(joiner.finish(), emission)
