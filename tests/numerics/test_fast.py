"""The fast path computes the host's numbers: to 1e-5 in float32, to 1e-10 in float64, masks and distractors alike."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch._dynamo
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model, create_wav2vec2_model
from fairseq2.models.wav2vec2.feature_extractor import Wav2Vec2FeatureExtractor
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn.functional import conv1d, group_norm

from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.models.wav2vec2.contrast import contrast, sample_distractors
from eqssl_speech.models.wav2vec2.fast import FastWav2Vec2Model, accelerate
from eqssl_speech.models.wav2vec2.feature_extractor import (
    ChannelsLastFeatureExtractor,
    normalized_conv1d,
)
from eqssl_speech.models.wav2vec2.strided_conv import strided_conv1d

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(params=list(TOLERANCES), ids=str)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Let the host, which computes parts in float32 whatever the model is in, keep to float64 there."""
    if request.param == torch.float64:
        monkeypatch.setattr(Tensor, "float", Tensor.double)

    return request.param


@pytest.fixture(autouse=True)
def without_compiler() -> Iterator[None]:
    """Let the host's quantizer, which compiles a function in each forward pass, run as it is written."""
    with torch._dynamo.config.patch(disable=True), torch.random.fork_rng():
        yield


def assert_close(ours: Tensor, host: Tensor, least_norm: float = 0.0) -> None:
    """Compare by norm. What is left of a sum of large terms is rounding noise in both: its norm says nothing, and the
    least norm is taken."""
    finite = host.isfinite()
    assert torch.equal(ours.isfinite(), finite)

    ours, host = ours[finite], host[finite]

    assert (ours - host).norm() <= TOLERANCES[host.dtype] * max(host.norm(), least_norm)


def make_config(kind: str) -> Wav2Vec2Config:
    config = micro_config()
    encoder = config.encoder_config

    if kind == "layer_norm":
        encoder.feature_extractor_layer_norm_convs = True
        encoder.feature_extractor_bias = True
    elif kind == "collapsed":
        config.num_codebook_entries = 2
    elif kind == "scaled":
        encoder.feature_grad_scale = 0.1
        config.quantizer_encoder_grad = False
        config.logit_temp = 1.0

    return config


def run(model: Wav2Vec2Model, seqs: Tensor, seq_lens: list[int] | None) -> tuple[Tensor, Tensor]:
    """Return the loss and the logits, with the gradients in the parameters."""
    torch.manual_seed(7)

    loss, output = model(seqs, BatchLayout.of(seqs, seq_lens))
    (loss.aggregate / output.num_targets).backward()

    return loss.aggregate.detach(), output.logits.detach()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["group_norm", "layer_norm", "collapsed", "scaled"])
@pytest.mark.parametrize("seq_lens", [None, [15_000, 20_345, 14_001]])
def test_losses_logits_and_gradients_are_the_hosts(
    dtype: torch.dtype, kind: str, seq_lens: list[int] | None, training: bool
) -> None:
    seqs = 0.1 * torch.randn(3, 20_345, generator=torch.Generator().manual_seed(1)).to(dtype)

    results, models = [], []
    for fast in (False, True):
        torch.manual_seed(3)
        model = create_wav2vec2_model(make_config(kind)).to(dtype).train(training)

        if fast:
            names = list(model.state_dict())
            assert isinstance(accelerate(model), FastWav2Vec2Model)
            assert isinstance(
                model.encoder_frontend.feature_extractor, ChannelsLastFeatureExtractor
            )
            assert list(model.state_dict()) == names

        models.append(model)
        results.append((*run(model, seqs, seq_lens), torch.get_rng_state()))

    (host_loss, host_logits, host_state), (loss, logits, state) = results

    assert_close(loss, host_loss)
    assert_close(logits, host_logits)
    assert torch.equal(state, host_state), "other random numbers were drawn"

    if kind == "collapsed":
        assert host_logits.isinf().any()

    grads = [[p.grad for p in m.parameters()] for m in models]
    largest = max(float(g.norm()) for g in grads[0] if g is not None)

    for (name, _), host_grad, grad in zip(models[0].named_parameters(), *grads, strict=True):
        assert (grad is None) == (host_grad is None), name

        if grad is not None and host_grad is not None:
            assert_close(grad, host_grad, largest / 100)


def test_checkpoints_go_both_ways() -> None:
    host = create_wav2vec2_model(micro_config())
    fast = accelerate(create_wav2vec2_model(micro_config()))

    fast.load_state_dict(host.state_dict())
    host.load_state_dict(fast.state_dict())

    assert accelerate(fast) is fast


def test_second_derivatives_leave_out_what_has_none() -> None:
    model = create_wav2vec2_model(micro_config())

    accelerate(model, twice_differentiable=True)

    assert type(model) is FastWav2Vec2Model
    assert type(model.encoder_frontend.feature_extractor) is Wav2Vec2FeatureExtractor


@pytest.mark.parametrize(("num_targets", "num_distractors"), [(2, 1), (2, 5), (7, 30)])
def test_distractors_are_the_hosts(num_targets: int, num_distractors: int) -> None:
    model = create_wav2vec2_model(replace(micro_config(), num_distractors=num_distractors))
    # Vectors that say where they stand.
    targets = torch.arange(3 * num_targets).view(3, num_targets, 1)

    torch.manual_seed(5)
    host = model._sample_distractors(targets).squeeze(-1)
    torch.manual_seed(5)
    positions = sample_distractors(3, num_targets, num_distractors, targets.device)

    assert torch.equal(positions + num_targets * torch.arange(3).view(3, 1, 1), host)
    assert not (positions == torch.arange(num_targets).view(1, -1, 1)).any()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_distractors_equal_to_the_target_are_masked_as_by_the_host(precision: torch.dtype) -> None:
    model = create_wav2vec2_model(micro_config())
    generator = torch.Generator().manual_seed(2)

    rows = torch.randn(5, 6, generator=generator)
    # A row that differs in a single element, one of zeros, and one of minus zeros.
    rows = torch.cat([rows, rows[:1], torch.zeros(1, 6), -torch.zeros(1, 6)])
    rows[5, 3] += 0.5
    targets = rows[torch.randint(0, 8, (2, 40), generator=generator)].to(precision)
    seqs = torch.randn(2, 40, 6, generator=generator).to(precision)

    positions = sample_distractors(2, 40, 50, targets.device)
    vectors = torch.stack([t[p] for t, p in zip(targets, positions, strict=True)])

    host = model._compute_logits(seqs, targets, vectors)
    logits = contrast(seqs, targets, positions, model.logit_temp)

    assert logits.dtype == torch.float32
    assert 0.1 < host.isinf().float().mean() < 0.5
    assert_close(logits, host)


def test_a_target_of_zeros_has_cosines_of_zero() -> None:
    seqs = torch.randn(1, 3, 4)
    targets = torch.zeros(1, 3, 4)
    targets[0, 0] = 1.0

    logits = contrast(seqs, targets, sample_distractors(1, 3, 4, seqs.device), 0.1)

    assert not logits.isnan().any()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel_size", "stride"), [(3, 2), (2, 2), (10, 5), (5, 1), (1, 1), (4, 3)]
)
@pytest.mark.parametrize("num_frames", [10, 29, 32])
def test_the_strided_convolution_is_torchs(
    dtype: torch.dtype, kernel_size: int, stride: int, num_frames: int, bias: bool
) -> None:
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

    # A part of a larger tensor, and frozen arguments.
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


def test_autocast_computes_in_its_precision() -> None:
    model = create_wav2vec2_model(micro_config())
    fast = accelerate(create_wav2vec2_model(micro_config()))
    fast.load_state_dict(model.state_dict())

    seqs = 0.1 * torch.randn(2, 8_000)
    layout = BatchLayout.of(seqs)

    features = []
    for m in (model, fast):
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = m.encoder_frontend.feature_extractor(seqs, layout)
        features.append(output)

    assert features[0].dtype == features[1].dtype == torch.bfloat16
    assert (features[0] - features[1]).float().norm() <= 0.02 * features[0].float().norm()
