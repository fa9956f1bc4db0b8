"""The fast path computes the host's numbers: to 1e-5 in float32, to 1e-10 in float64, masks and distractors alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch
import torch._dynamo
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model, create_wav2vec2_model
from fairseq2.models.wav2vec2.feature_extractor import (
    Wav2Vec2FeatureConv1d,
    Wav2Vec2FeatureExtractor,
)
from fairseq2.models.wav2vec2.model import Wav2Vec2Features
from fairseq2.nn import BatchLayout
from host_numbers import assert_close
from torch import Tensor
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel

from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.models.wav2vec2.contrast import _row_keys, contrast, sample_distractors
from eqssl_speech.models.wav2vec2.convolutions import (
    ChannelsLastFeatureConv1d,
    ChannelsLastPositionalConv1d,
    NormalizedFeatureExtractionLayer,
)
from eqssl_speech.models.wav2vec2.fast import FastWav2Vec2Model, accelerate
from eqssl_speech.models.wav2vec2.second_order import make_twice_differentiable


@pytest.fixture(autouse=True)
def without_compiler() -> Iterator[None]:
    """Let the host's quantizer, which compiles a function in each forward pass, run as it is written."""
    with torch._dynamo.config.patch(disable=True), torch.random.fork_rng():
        yield


def make_config(kind: str) -> Wav2Vec2Config:
    config = micro_config()
    encoder = config.encoder_config

    if kind == "layer_norm":
        encoder.feature_extractor_layer_norm_convs = True
        encoder.feature_extractor_bias = True
    elif kind == "group_norm_bias":
        encoder.feature_extractor_bias = True
    elif kind == "collapsed":
        config.num_codebook_entries = 2
    elif kind == "scaled":
        encoder.feature_grad_scale = 0.1
        config.quantizer_encoder_grad = False
        config.logit_temp = 1.0
    elif kind == "spatial_masks":
        config.max_spatial_mask_prob = 0.9
        encoder.first_pass_dropout_p = 0.1

    return config


def run(model: Wav2Vec2Model, seqs: Tensor, seq_lens: list[int] | None) -> tuple[Tensor, Tensor]:
    """Return the loss and the logits, with the gradients in the parameters."""
    torch.manual_seed(7)

    loss, output = model(seqs, BatchLayout.of(seqs, seq_lens))
    (loss.aggregate / output.num_targets).backward()

    return loss.aggregate.detach(), output.logits.detach()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "kind", ["group_norm", "group_norm_bias", "layer_norm", "collapsed", "scaled", "spatial_masks"]
)
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

    # Nothing but noise in both: what moves all scores of a softmax alike, and what a norm takes out.
    noise = ("k_proj.bias",)
    if kind == "group_norm_bias":
        noise += ("extractor.layers.0.conv.bias",)

    for (name, _), host_grad, grad in zip(models[0].named_parameters(), *grads, strict=True):
        assert (grad is None) == (host_grad is None), name

        if grad is not None and host_grad is not None:
            assert_close(grad, host_grad, largest if name.endswith(noise) else largest / 1e3)


def test_second_derivatives_are_the_hosts(dtype: torch.dtype) -> None:
    seqs = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(1)).to(dtype)

    products = []
    for fast in (False, True):
        torch.manual_seed(3)
        model = create_wav2vec2_model(micro_config()).to(dtype)
        make_twice_differentiable(model)

        if fast:
            accelerate(model, twice_differentiable=True)

        torch.manual_seed(7)
        with sdpa_kernel(SDPBackend.MATH):
            loss, output = model(seqs, BatchLayout.of(seqs))

        params = list(model.parameters())
        grads = torch.autograd.grad(loss.aggregate / output.num_targets, params, create_graph=True)
        square = torch.stack([g.square().sum() for g in grads]).sum()
        products.append(torch.autograd.grad(square, params))

    largest = max(float(p.norm()) for p in products[0])

    for host, ours in zip(*products, strict=True):
        assert_close(ours, host, largest / 1e3)


def test_features_of_the_host_are_contrasted_too() -> None:
    model = accelerate(create_wav2vec2_model(micro_config()))
    seqs = torch.randn(2, 16_000)

    features = model.extract_features(seqs, BatchLayout.of(seqs))
    plain = Wav2Vec2Features(
        **{f.name: getattr(features, f.name) for f in fields(Wav2Vec2Features)}
    )

    logits = []
    for either in (features, plain):
        torch.manual_seed(5)
        logits.append(model.quantize_and_contrast(either).logits)

    assert torch.equal(*logits)


def test_checkpoints_go_both_ways() -> None:
    host = create_wav2vec2_model(micro_config())
    fast = accelerate(create_wav2vec2_model(micro_config()))

    fast.load_state_dict(host.state_dict())
    host.load_state_dict(fast.state_dict())

    assert accelerate(fast) is fast


def count_fast(model: Module) -> Counter[type[Module]]:
    kinds = (
        FastWav2Vec2Model,
        ChannelsLastFeatureConv1d,
        ChannelsLastPositionalConv1d,
        NormalizedFeatureExtractionLayer,
    )

    return Counter(type(m) for m in model.modules() if isinstance(m, kinds))


def test_what_is_replaced_and_what_is_not() -> None:
    model = accelerate(create_wav2vec2_model(micro_config()))
    assert count_fast(model) == {
        FastWav2Vec2Model: 1,
        NormalizedFeatureExtractionLayer: 1,
        ChannelsLastFeatureConv1d: 7,
        ChannelsLastPositionalConv1d: 1,
    }

    model = create_wav2vec2_model(micro_config())
    accelerate(model, twice_differentiable=True)
    assert count_fast(model)[ChannelsLastFeatureConv1d] == 0

    def extractor(**changes: object) -> Wav2Vec2FeatureExtractor:
        return Wav2Vec2FeatureExtractor([(6, 10, 5), (6, 3, 2)], False, **changes)  # type: ignore[arg-type]

    assert count_fast(accelerate(extractor()))[NormalizedFeatureExtractionLayer] == 1

    for other in (extractor(dropout_p=0.1), extractor(layer_norm=True), extractor(num_channels=2)):
        assert count_fast(accelerate(other))[NormalizedFeatureExtractionLayer] == 0

    for change in (
        {"group_norm": torch.nn.GroupNorm(1, 6)},
        {"conv": Wav2Vec2FeatureConv1d(1, 6, 10, stride=5, dilation=2, bias=False)},
        {"conv": Wav2Vec2FeatureConv1d(1, 6, 10, stride=5, bias=True)},
    ):
        other = extractor()
        for name, module in change.items():
            setattr(other.layers[0], name, module)
        assert count_fast(accelerate(other))[NormalizedFeatureExtractionLayer] == 0


@pytest.mark.parametrize("kind", ["group_norm", "layer_norm"])
def test_the_feature_extractor_in_every_mode(kind: str) -> None:
    """Hooks are called, other activations used, frozen parameters left alone; ``(N, S, 1)`` and inference mode work."""
    torch.manual_seed(3)
    extractors = [
        create_wav2vec2_model(make_config(kind)).encoder_frontend.feature_extractor
        for _ in range(2)
    ]
    extractors[1].load_state_dict(extractors[0].state_dict())
    accelerate(extractors[1])

    seqs = 0.1 * torch.randn(2, 8_003)
    calls = []

    outputs = []
    for extractor in extractors:
        for layer in extractor.layers:
            layer.activation = torch.nn.SiLU()
            layer.register_forward_hook(lambda *_: calls.append(1))
        extractor.layers[2].requires_grad_(False)

        with torch.inference_mode():
            inferred, _ = extractor(seqs.unsqueeze(2), BatchLayout.of(seqs))

        output, _ = extractor(seqs, BatchLayout.of(seqs))
        output.square().sum().backward()
        outputs.append(output)

        assert torch.equal(inferred, output)

    assert len(calls) == 4 * 7
    assert_close(outputs[1], outputs[0])

    for ours, host in zip(extractors[1].parameters(), extractors[0].parameters(), strict=True):
        assert (ours.grad is None) == (host.grad is None)
        if ours.grad is not None and host.grad is not None:
            assert_close(ours.grad, host.grad, 1e-3)


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


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
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

    assert logits.dtype == (torch.float64 if precision == torch.float64 else torch.float32)
    assert 0.1 < host.isinf().float().mean() < 0.5
    assert_close(logits.float(), host)


def test_rows_that_look_alike_are_told_apart() -> None:
    """A sum over bits must not take one of these for another: signs, small integers, exchanged places."""
    generator = torch.Generator().manual_seed(3)

    for precision in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for numbers in (torch.tensor([-1.0, 1.0]), torch.arange(4.0)):
            choice = torch.randint(0, len(numbers), (3_000, 16), generator=generator)
            rows = numbers[choice].to(precision)

            assert len(_row_keys(rows).unique()) == len(rows.unique(dim=0))


def test_a_target_of_zeros_has_cosines_of_zero() -> None:
    seqs = torch.randn(1, 3, 4)
    targets = torch.zeros(1, 3, 4)
    targets[0, 0] = 1.0

    logits = contrast(seqs, targets, sample_distractors(1, 3, 4, seqs.device), 0.1)

    assert not logits.isnan().any()


@pytest.mark.parametrize("kind", ["group_norm", "layer_norm"])
def test_autocast_computes_in_its_precision(kind: str) -> None:
    seqs = 0.1 * torch.randn(6, 8_000, generator=torch.Generator().manual_seed(1))

    features, grads = [], []
    for fast in (False, True, None):
        torch.manual_seed(3)
        model = create_wav2vec2_model(make_config(kind))
        extractor = model.encoder_frontend.feature_extractor

        if fast:
            accelerate(extractor)

        # The third is exact.
        with torch.autocast("cpu", torch.bfloat16, enabled=fast is not None):
            output, _ = extractor(seqs, BatchLayout.of(seqs))

        output.float().square().sum().backward()
        features.append(output)
        grads.append(torch.cat([p.grad.flatten() for p in extractor.parameters()]))  # type: ignore[union-attr]

    assert features[0].dtype == features[1].dtype == torch.bfloat16

    for host, ours, exact in (features, grads):
        host_error, error = ((x.float() - exact).norm() for x in (host, ours))
        assert error <= 1.1 * host_error


def test_logits_under_autocast_are_of_full_precision() -> None:
    seqs, targets = torch.randn(2, 30, 8), torch.randn(2, 30, 8)
    positions = sample_distractors(2, 30, 10, seqs.device)

    with torch.autocast("cpu", torch.bfloat16):
        logits = contrast(seqs, targets, positions, 0.1)

    assert torch.equal(logits, contrast(seqs, targets, positions, 0.1))
