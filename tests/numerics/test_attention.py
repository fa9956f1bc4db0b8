"""Attention with dropout: torch's output, gradients and random draws."""

from __future__ import annotations

import pytest
import torch
from fairseq2.models.transformer import AttentionBiasCache, IdentityBias, TorchSDPA
from fairseq2.nn import BatchLayout
from host_numbers import assert_close
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eqssl_speech.models.wav2vec2.attention import DroppedSDPA, dropped_attention


def torch_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))

    return scaled_dot_product_attention(q, k, v, dropout_p=dropout_p).transpose(1, 2)


@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "shape", [(2, 7, 7, 3, 5, 5), (3, 33, 20, 2, 8, 4), (1, 64, 64, 4, 16, 16)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_output_and_gradients_are_torchs(
    dtype: torch.dtype, shape: tuple[int, ...], dropout_p: float, seed: int
) -> None:
    batch_size, q_len, k_len, num_heads, k_dim, v_dim = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int, dim: int) -> Tensor:
        x = 2.0 * torch.randn(batch_size, length, num_heads, dim, generator=generator)

        return x.to(dtype).requires_grad_()

    inputs = draw(q_len, k_dim), draw(k_len, k_dim), draw(k_len, v_dim)
    grad = draw(q_len, v_dim).detach()

    results, states = [], []

    with torch.random.fork_rng():
        for attend in (torch_attention, dropped_attention):
            torch.manual_seed(seed)
            output = attend(*inputs, dropout_p)
            results.append((output, *torch.autograd.grad(output, inputs, grad)))
            states.append(torch.get_rng_state())

    assert torch.equal(*states)

    for host, ours in zip(*results, strict=True):
        assert ours.dtype == dtype
        assert_close(ours, host)


def test_gradients_are_those_of_the_output() -> None:
    def attend(*inputs: Tensor) -> Tensor:
        torch.manual_seed(3)

        return dropped_attention(*inputs, 0.3)

    inputs = [torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    with torch.random.fork_rng():
        assert torch.autograd.gradcheck(attend, inputs)


def test_scores_far_from_zero_are_no_trouble() -> None:
    q, k, v = (300.0 * torch.randn(1, 9, 2, 4, requires_grad=True) for _ in range(3))

    output = dropped_attention(q, k, v, 0.1)

    assert all(g.isfinite().all() for g in torch.autograd.grad(output.sum(), (q, k, v)))


def test_autocast_is_torchs() -> None:
    """In bfloat16 the linear layers before it hand over bfloat16, and torch computes attention in float32."""
    inputs = [torch.randn(2, 30, 2, 8).bfloat16().requires_grad_() for _ in range(3)]
    grad = torch.randn(2, 30, 2, 8).bfloat16()

    results = []
    with torch.random.fork_rng():
        for attend in (torch_attention, dropped_attention):
            torch.manual_seed(0)

            with torch.autocast("cpu", torch.bfloat16):
                output = attend(*inputs, 0.2)

            results.append((output, *torch.autograd.grad(output, inputs, grad)))

    for host, ours in zip(*results, strict=True):
        assert ours.dtype == host.dtype == torch.bfloat16
        # A tenth of a rounding, on average.
        assert (ours - host).norm() <= 2e-4 * host.norm()


@pytest.mark.parametrize("case", ["padded", "evaluation"])
def test_the_rest_is_left_to_torch(case: str) -> None:
    seqs = torch.randn(2, 12, 2, 4)
    layout = BatchLayout.of(seqs, [12, 9] if case == "padded" else None)

    outputs = []
    for fast in (False, True):
        sdpa = TorchSDPA(IdentityBias(), dropout_p=0.1).train(case == "padded")
        if fast:
            sdpa.__class__ = DroppedSDPA

        torch.manual_seed(0)
        outputs.append(sdpa(seqs, layout, seqs, layout, seqs, AttentionBiasCache())[0])

    assert torch.equal(*outputs)


@pytest.mark.parametrize("settings", [{"dropout_p": 0.0}, {"dropout_p": 0.1, "scale": 1.0}])
def test_other_attention_stays(settings: dict[str, float]) -> None:
    assert DroppedSDPA.can_replace(TorchSDPA(IdentityBias(), dropout_p=0.1))
    assert not DroppedSDPA.can_replace(TorchSDPA(IdentityBias(), **settings))
