"""The convolutions of the fast path compute what torch's do."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from host_numbers import TOLERANCES, assert_close
from torch import Tensor
from torch.nn.functional import conv1d, group_norm

from eqssl_speech.models.wav2vec2 import convolutions
from eqssl_speech.models.wav2vec2.convolutions import normalized_conv1d, strided_conv1d


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel_size", "stride"), [(3, 2), (2, 2), (10, 5), (5, 1), (1, 1), (4, 3), (2, 3)]
)
@pytest.mark.parametrize("num_frames", [10, 29, 32])
@pytest.mark.parametrize("min_width", [0, 256])
def test_the_strided_convolution_is_torchs(
    dtype: torch.dtype,
    kernel_size: int,
    stride: int,
    num_frames: int,
    bias: bool,
    min_width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolutions, "_MIN_WIDTH_FOR_PRODUCTS", min_width)

    generator = torch.Generator().manual_seed(4)

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    inputs = [make(2, num_frames, 5), make(7, 5, kernel_size), make(7)]
    ours, host = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))

    output = strided_conv1d(ours[0], ours[1], ours[2] if bias else None, stride)
    expected = conv1d(host[0].transpose(1, 2), host[1], host[2] if bias else None, stride)
    expected = expected.transpose(1, 2)

    grad = make(*expected.shape)
    output.backward(grad)
    expected.backward(grad)

    assert_close(output, expected)
    for x, y in zip(ours[: 2 + bias], host, strict=False):
        assert x.grad is not None
        assert y.grad is not None
        assert_close(x.grad, y.grad)


def test_the_strided_convolution_passes_gradcheck() -> None:
    seqs = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda s, w: strided_conv1d(s, w, None, 2), (seqs, weight))

    # Channels first in memory, a part of a larger tensor, and frozen arguments.
    turned = torch.randn(2, 3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s: strided_conv1d(s.transpose(1, 2), weight.detach(), None, 2), (turned,)
    )
    part = torch.randn(2, 20, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s: strided_conv1d(s[:, 3:14], weight.detach(), None, 2), (part,)
    )
    assert torch.autograd.gradcheck(lambda w: strided_conv1d(seqs.detach(), w, None, 2), (weight,))


def test_second_derivatives_of_the_strided_convolution_are_refused() -> None:
    seqs, weight = torch.randn(1, 9, 3), torch.randn(4, 3, 3, requires_grad=True)

    output = strided_conv1d(seqs, weight, None, 2)
    (grad,) = torch.autograd.grad(output.square().sum(), weight, create_graph=True)

    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_samples_that_no_frame_sees_have_no_say() -> None:
    norm, weight = torch.nn.GroupNorm(6, 6), torch.randn(6, 1, 10)
    waveforms = torch.randn(1, 503)
    changed = waveforms.clone()
    changed[0, -3:] = torch.nan

    outputs = [normalized_conv1d(w, weight, 5, norm) for w in (waveforms, changed)]

    assert outputs[0].shape == (1, 99, 6)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("loudness", [1.0, 1e-4, 0.0])
def test_the_normalised_convolution_is_convolution_and_group_norm(
    dtype: torch.dtype, loudness: float, offset: float
) -> None:
    """Also of silence, of what is hardly louder, and with a constant in the recording."""
    torch.manual_seed(6)
    waveforms = loudness * torch.randn(2, 4_000).to(dtype) + offset

    norm = torch.nn.GroupNorm(6, 6, dtype=dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    weight = torch.randn(6, 1, 10).to(dtype).requires_grad_()

    # The host's own float32 loses digits; what is right is found in float64.
    exact_weight = weight.detach().double().requires_grad_()
    exact_norm = deepcopy(norm).double()
    expected = group_norm(
        conv1d(waveforms.double().unsqueeze(1), exact_weight, stride=5),
        6,
        exact_norm.weight,
        exact_norm.bias,
    ).transpose(1, 2)

    output = normalized_conv1d(waveforms, weight, 5, norm)

    grad = torch.randn(expected.shape, dtype=torch.float64)
    output.backward(grad.to(dtype))
    expected.backward(grad)

    pairs = [(output, expected), (norm.bias.grad, exact_norm.bias.grad)]
    if loudness == 1.0:
        pairs += [(weight.grad, exact_weight.grad), (norm.weight.grad, exact_norm.weight.grad)]

    for x, y in pairs:
        assert x is not None
        assert y is not None
        assert (x - y).norm() <= TOLERANCES[dtype] * max(y.norm(), 1.0)
