"""The CTC loss equals the sum over all paths, and torch's; what cannot be aligned adds nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product

import pytest
import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.models.wav2vec2.asr import create_wav2vec2_asr_model
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import Module

from eqssl_speech.criteria.ctc import BLANK, CtcCriterion, CtcOutput, count_repeats
from eqssl_speech.models.wav2vec2.config import micro_config

# Labels of an utterance, and its frames. Repeats, an empty one, two that no path spells, one path only (T = U + R).
TINY = [
    ([1, 2], 5),
    ([3, 3], 4),
    ([], 3),
    ([1, 1, 1], 5),
    ([2, 2], 2),
    ([1, 2, 3], 3),
    ([2], 1),
    ([1, 3, 2, 1], 3),
]

POSSIBLE = [True, True, True, True, False, True, True, False]

NUM_LABELS = 4
"""The size of the vocabulary, the blank included."""


@dataclass
class Batch:
    """Waveforms that `Fixed` ignores, and labels."""

    targets: Tensor
    target_lens: list[int]
    seq_lens: list[int]

    def as_input(self) -> tuple[Tensor, BatchLayout]:
        shape = (len(self.seq_lens), max(self.seq_lens))

        return torch.zeros(shape), BatchLayout(shape, self.seq_lens)


class Fixed(Module):
    """Says the same logits of everything."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, seqs: Tensor, layout: BatchLayout) -> tuple[Tensor, BatchLayout]:
        return self.logits, layout


def make_batch(utterances: Sequence[tuple[list[int], int]], padding: int = 0) -> Batch:
    width = max(len(labels) for labels, _ in utterances)

    # Behind an utterance's last label stands what must not be read.
    rows = [labels + [padding] * (width - len(labels)) for labels, _ in utterances]

    return Batch(
        torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width),
        [len(labels) for labels, _ in utterances],
        [num_frames for _, num_frames in utterances],
    )


def make_logits(batch: Batch, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(batch.seq_lens), max(batch.seq_lens), NUM_LABELS)

    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def compute(logits: Tensor, batch: Batch) -> CtcOutput:
    return CtcCriterion()(Fixed(logits), batch)


def sum_over_paths(log_probs: Tensor, labels: Sequence[int]) -> Tensor:
    """The negative log of the sum over all paths that collapse to the labels. *log_probs:* ``(T, V)``."""
    frames = range(len(log_probs))
    paths = [
        torch.stack([log_probs[t, path[t]] for t in frames]).sum()
        for path in product(range(log_probs.size(1)), repeat=len(log_probs))
        if [label for label, _ in groupby(path) if label != BLANK] == list(labels)
    ]

    return -torch.stack(paths).logsumexp(0) if paths else torch.tensor(math.inf)


def brute_force(logits: Tensor, utterances: Sequence[tuple[list[int], int]]) -> list[Tensor]:
    log_probs = logits.log_softmax(-1)

    return [sum_over_paths(log_probs[i, :t], labels) for i, (labels, t) in enumerate(utterances)]


@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_the_sum_over_all_paths(seed: int) -> None:
    batch = make_batch(TINY)
    logits = make_logits(batch, seed)

    output = compute(logits, batch)

    expected = torch.stack(brute_force(logits, TINY))
    # Both in float64; other orders of summation.
    torch.testing.assert_close(output.losses, expected, rtol=1e-12, atol=1e-12)
    assert output.losses.isinf().tolist() == [not possible for possible in POSSIBLE]


def test_gradient_equals_that_of_the_sum_over_all_paths() -> None:
    batch = make_batch(TINY)
    logits = make_logits(batch).requires_grad_()

    output = compute(logits, batch)
    (ours,) = torch.autograd.grad(output.loss_sum, logits)

    losses = brute_force(logits, TINY)
    (theirs,) = torch.autograd.grad(sum(loss for loss in losses if loss.isfinite()), logits)

    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert ours[0].abs().max() > 0.1


def test_gradient_equals_finite_differences() -> None:
    batch = make_batch(TINY)
    logits = make_logits(batch, seed=4).requires_grad_()

    assert torch.autograd.gradcheck(lambda x: compute(x, batch).loss, logits, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_loss_and_gradient_equal_torchs_in_float64(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lens = [(12, 50), (25, 40), (1, 7), (0, 20)]
    utterances = [
        (torch.randint(1, NUM_LABELS, (num,), generator=generator).tolist(), num_frames)
        for num, num_frames in lens
    ]
    batch = make_batch(utterances)
    logits = make_logits(batch, seed).requires_grad_()

    output = compute(logits, batch)

    expected = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        batch.targets,
        torch.tensor(batch.seq_lens),
        torch.tensor(batch.target_lens),
        reduction="none",
    )
    # 25 labels with their repeats may ask for more than 40 frames, where torch says the same.
    counted = expected.isfinite()
    assert torch.equal(output.impossible, ~counted)

    (ours,) = torch.autograd.grad(output.loss_sum, logits)
    (theirs,) = torch.autograd.grad(expected[counted].sum(), logits)

    torch.testing.assert_close(output.losses, expected.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(ours[counted], theirs[counted], rtol=1e-12, atol=1e-14)


def test_an_impossible_utterance_adds_neither_loss_nor_gradient() -> None:
    batch = make_batch(TINY)
    logits = make_logits(batch).requires_grad_()
    output = compute(logits, batch)

    kept = [i for i, possible in enumerate(POSSIBLE) if possible]
    part = make_batch([TINY[i] for i in kept])
    part_logits = logits.detach()[kept].requires_grad_()
    part_output = compute(part_logits, part)

    (grad,) = torch.autograd.grad(output.loss, logits)
    (part_grad,) = torch.autograd.grad(part_output.loss, part_logits)

    assert output.impossible.tolist() == [not possible for possible in POSSIBLE]
    assert output.num_counted_labels == part_output.num_counted_labels == 11
    torch.testing.assert_close(output.loss, part_output.loss, rtol=1e-15, atol=0)
    torch.testing.assert_close(grad[kept], part_grad, rtol=1e-14, atol=0)
    assert torch.count_nonzero(grad[output.impossible]) == 0
    assert grad.isfinite().all()


def test_a_batch_of_impossible_utterances_only_has_a_zero_loss_and_gradient() -> None:
    batch = make_batch([([1, 1], 2), ([1, 2, 3], 2)])
    logits = make_logits(batch).requires_grad_()

    output = compute(logits, batch)
    (grad,) = torch.autograd.grad(output.loss, logits)

    assert output.loss == 0.0
    assert torch.count_nonzero(grad) == 0
    assert output.num_counted_labels == 0


def test_padding_changes_nothing() -> None:
    batch = make_batch(TINY)
    logits = make_logits(batch)
    output = compute(logits, batch)

    # Other labels and other logits where no utterance is; a repeat across the end must not be counted.
    other = make_batch(TINY, padding=3)
    for i, num_frames in enumerate(batch.seq_lens):
        logits[i, num_frames:] += 5.0

    padded = compute(logits.requires_grad_(), other)
    (grad,) = torch.autograd.grad(padded.loss, logits)

    assert torch.equal(padded.losses, output.losses)
    assert torch.equal(padded.impossible, output.impossible)
    assert padded.blank_share == output.blank_share
    for i, num_frames in enumerate(batch.seq_lens):
        assert torch.count_nonzero(grad[i, num_frames:]) == 0


def test_loss_is_in_nats_per_label() -> None:
    batch = make_batch(TINY)
    output = compute(make_logits(batch), batch)

    torch.testing.assert_close(output.loss, output.losses[~output.impossible].sum() / 11)


def test_only_blanks_spell_an_empty_transcript() -> None:
    batch = make_batch([([], 3), ([], 2)])
    logits = make_logits(batch)

    output = compute(logits, batch)

    blanks = logits.log_softmax(-1)[..., BLANK]
    expected = -torch.stack([blanks[0, :3].sum(), blanks[1, :2].sum()])
    torch.testing.assert_close(output.losses, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(output.loss, expected.sum())


def test_repeats_are_counted_within_the_utterance_only() -> None:
    targets = torch.tensor([[1, 1, 1, 2], [1, 2, 2, 2], [0, 0, 0, 0]])

    assert count_repeats(targets, torch.tensor([4, 2, 0])).tolist() == [2, 0, 0]


def test_blank_share_counts_frames_that_are_not_padding() -> None:
    batch = make_batch([([1], 4), ([2], 2)])
    logits = torch.zeros(2, 4, NUM_LABELS)
    logits[:, :, 1] = 1.0
    logits[0, 0, BLANK] = logits[1, 0, BLANK] = 2.0
    logits[1, 2:, BLANK] = 2.0  # padding

    assert compute(logits, batch).blank_share.item() == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_sums_over_paths_are_in_float32_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    batch = make_batch(TINY)
    output = compute(make_logits(batch, dtype=dtype), batch)

    assert output.loss.dtype == output.losses.dtype == output.log_probs.dtype == expected


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
def test_a_fault_in_the_model_is_not_taken_for_an_impossible_utterance(fault: float) -> None:
    batch = make_batch(TINY)
    logits = make_logits(batch)
    logits[0, :, 1] = fault

    output = compute(logits, batch)

    assert not output.loss.isfinite()
    assert not output.impossible[0]


def test_the_hosts_model_is_called_and_trained() -> None:
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig

    torch.manual_seed(0)
    config = Wav2Vec2AsrConfig(
        encoder_config=micro_config().encoder_config,
        target_vocab_size=NUM_LABELS,
        use_masking=False,
    )
    model = create_wav2vec2_asr_model(config)

    @dataclass
    class Transcribed(SequenceBatch):
        targets: Tensor
        target_lens: list[int]

        def __init__(self) -> None:
            super().__init__(torch.randn(2, 8_000), [8_000, 3_000])
            self.targets = torch.tensor([[1, 2, 2], [3, 0, 0]])
            self.target_lens = [3, 1]

    batch = Transcribed()
    output = CtcCriterion()(model, batch)
    output.loss.backward()

    # 400 samples for the first frame, 320 for each further one.
    assert output.num_frames.tolist() == [(8_000 - 400) // 320 + 1, (3_000 - 400) // 320 + 1]

    expected = model(*batch.as_input(), batch.targets, BatchLayout((2, 3), [3, 1]))
    torch.testing.assert_close(output.loss_sum, expected)
    assert model.final_proj.weight.grad.abs().max() > 1e-3
