"""HuBERT predicts the labels of masked frames: which frames count, how they are compared, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn.functional import cross_entropy

from eqssl_speech.models.hubert import (
    HubertConfig,
    HubertLoss,
    HubertModel,
    HubertOutput,
    create_hubert_model,
)
from eqssl_speech.models.hubert.config import micro_config
from eqssl_speech.models.wav2vec2 import accelerate
from eqssl_speech.text.frames import num_frames

NUM_SAMPLES = [12_000, 10_000, 9_500]
NUM_FRAMES = [num_frames(n) for n in NUM_SAMPLES]
MAX_FRAMES = max(NUM_FRAMES)

NUM_CODES = [7, 4]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        yield


def make_config(**overrides: object) -> HubertConfig:
    return replace(micro_config(NUM_CODES), **overrides)


def make_labels(num_codes: list[int] = NUM_CODES) -> Tensor:
    size = (len(NUM_SAMPLES), MAX_FRAMES)

    return torch.stack([torch.randint(0, num, size) for num in num_codes])


def run(
    model: HubertModel, labels: Tensor, *, padded: bool = True, seed: int = 3, **weights: float
) -> tuple[HubertLoss, HubertOutput]:
    generator = torch.Generator().manual_seed(9)
    seqs = 0.1 * torch.randn(len(NUM_SAMPLES), max(NUM_SAMPLES), generator=generator)

    torch.manual_seed(seed)

    return model(seqs, BatchLayout.of(seqs, NUM_SAMPLES if padded else None), labels, **weights)


def find_own() -> Tensor:
    return torch.arange(MAX_FRAMES) < torch.tensor(NUM_FRAMES).unsqueeze(1)


def test_targets_are_the_labels_of_masked_frames() -> None:
    labels = make_labels()

    _, output = run(create_hubert_model(make_config()), labels)

    assert output.temporal_mask.shape == (3, MAX_FRAMES)
    assert not (output.temporal_mask & ~find_own()).any()
    assert output.num_targets == int(output.temporal_mask.sum()) > 0

    for logits, targets, row, num in zip(
        output.logits, output.targets, labels, NUM_CODES, strict=True
    ):
        assert logits.shape == (*targets.shape, num)
        assert torch.equal(targets.flatten(), row[output.temporal_mask])


def test_the_loss_is_the_sum_of_its_terms() -> None:
    model = create_hubert_model(make_config())

    loss, output = run(model, make_labels(), unmasked_weight=0.3, features_penalty_weight=2.0)

    assert output.unmasked_logits is not None
    assert output.unmasked_targets is not None

    masked, unmasked = (
        sum(
            cross_entropy(x.flatten(0, -2), t.flatten(), reduction="sum")
            for x, t in zip(logits, targets, strict=True)
        )
        for logits, targets in (
            (output.logits, output.targets),
            (output.unmasked_logits, output.unmasked_targets),
        )
    )
    penalty = output.raw_features.square().mean() * output.num_targets

    torch.testing.assert_close(loss.masked, masked)
    torch.testing.assert_close(loss.unmasked, unmasked)
    torch.testing.assert_close(loss.features_penalty, penalty)
    torch.testing.assert_close(loss.aggregate, masked + 0.3 * unmasked + 2.0 * penalty)


@pytest.mark.parametrize("padded", [False, True])
def test_unmasked_frames_are_all_others_but_padding(padded: bool) -> None:
    labels = make_labels()

    _, output = run(create_hubert_model(make_config()), labels, padded=padded, unmasked_weight=1.0)

    unmasked = ~output.temporal_mask
    if padded:
        unmasked &= find_own()

    assert output.unmasked_logits is not None
    assert output.unmasked_targets is not None

    for logits, targets, row, num in zip(
        output.unmasked_logits, output.unmasked_targets, labels, NUM_CODES, strict=True
    ):
        assert logits.shape == (int(unmasked.sum()), num)
        assert torch.equal(targets, row[unmasked])


def test_without_weight_unmasked_frames_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_hubert_model(make_config())
    shapes = []
    compute = model.compute_logits
    monkeypatch.setattr(
        model, "compute_logits", lambda seqs: (shapes.append(seqs.shape), compute(seqs))[1]
    )

    loss, output = run(model, make_labels())

    assert shapes == [(3, output.num_targets // 3, 48)]
    assert output.unmasked_logits is None
    assert output.unmasked_targets is None
    assert loss.unmasked == 0.0
    assert not loss.unmasked.requires_grad

    with_weight, _ = run(model, make_labels(), unmasked_weight=0.5)
    assert with_weight.unmasked.requires_grad


def test_labels_of_padding_are_not_looked_at() -> None:
    model = create_hubert_model(make_config())
    labels = make_labels()

    loss, _ = run(model, labels, unmasked_weight=0.5)
    again, _ = run(model, labels.masked_fill(~find_own(), -1), unmasked_weight=0.5)

    assert torch.equal(loss.aggregate, again.aggregate)


@pytest.mark.parametrize("shared", [False, True])
def test_logits_are_cosines_over_the_temperature(shared: bool) -> None:
    model = create_hubert_model(make_config(shared_final_proj=shared, logit_temp=0.2))

    _, output = run(model, make_labels())

    assert model.final_proj.weight.shape == (24 if shared else 48, 48)
    assert model.code_embeddings.shape == (11, 24)

    # (N, T, M) -> (N, S, D) for each label set
    projected = model.final_proj(output.encoder_output[output.temporal_mask]).view(3, -1, 24)
    if not shared:
        projected = model.final_proj(output.encoder_output[output.temporal_mask]).view(3, -1, 2, 24)

    for i, codes in enumerate((model.code_embeddings[:7], model.code_embeddings[7:])):
        frames = projected if shared else projected[:, :, i]
        expected = torch.cosine_similarity(frames.unsqueeze(2), codes, dim=-1) / 0.2

        torch.testing.assert_close(output.logits[i], expected, rtol=1e-5, atol=1e-5)


def test_label_sets_do_not_touch_each_other() -> None:
    model = create_hubert_model(make_config())

    _, output = run(model, make_labels())
    cross_entropy(output.logits[1].flatten(0, 1), output.targets[1].flatten()).backward()

    for param, size in ((model.code_embeddings, 7), (model.final_proj.weight, 24)):
        assert param.grad is not None
        assert not param.grad[:size].any()
        assert param.grad[size:].any(dim=1).all()


def test_logits_are_computed_in_float32_under_autocast() -> None:
    model = create_hubert_model(make_config())

    with torch.autocast("cpu", torch.bfloat16):
        loss, output = run(model, make_labels(), unmasked_weight=0.5)

    assert output.encoder_output.dtype == torch.bfloat16
    assert {x.dtype for x in (*output.logits, loss.aggregate)} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda x: x[:1], r"`labels` must be of the shape \(2, 3, 37\) .*, but is of \(1, 3, 37\)"),
        (lambda x: x[:, :2], r"is of \(2, 2, 37\) instead"),
        (lambda x: x[..., :-1], r"is of \(2, 3, 36\) instead"),
        (lambda x: torch.cat([x, x[..., :1]], dim=-1), r"is of \(2, 3, 38\) instead"),
        (lambda x: x[0], r"is of \(3, 37\) instead"),
        (lambda x: x.int(), r"must be of type int64, but is of torch\.int32 instead"),
        (lambda x: x.float(), r"must be of type int64, but is of torch\.float32 instead"),
        (
            lambda x: x.index_fill(0, torch.tensor([1]), 4),
            r"of the set 1 must be in \[0, 4\), the codes that the model has, but one is 4 instead",
        ),
        (lambda x: x - 7, r"of the set 0 must be in \[0, 7\), .* but one is -[1-7] instead"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, error) -> None:
    assert MAX_FRAMES == 37

    with pytest.raises(ValueError, match=error):
        run(create_hubert_model(make_config()), change(make_labels()))


def test_unmasked_labels_that_do_not_fit_are_refused_where_they_count() -> None:
    model = create_hubert_model(make_config())
    labels = make_labels()
    _, output = run(model, labels)

    labels[0][~output.temporal_mask] = 7

    run(model, labels)
    with pytest.raises(ValueError, match=r"of the set 0 must be in \[0, 7\)"):
        run(model, labels, unmasked_weight=0.1)


@pytest.mark.parametrize("kind", ["group_norm", "layer_norm"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_fast_path_trains_alike(kind: str, padded: bool) -> None:
    config = make_config(max_spatial_mask_prob=0.9)
    config.encoder_config = replace(
        config.encoder_config,
        dropout_p=0.1,
        attn_dropout_p=0.1,
        first_pass_dropout_p=0.1,
        layer_drop_p=0.2,
        feature_grad_scale=0.1,
        feature_extractor_layer_norm_convs=kind == "layer_norm",
    )
    labels = make_labels()

    plain = create_hubert_model(config)
    fast = create_hubert_model(config)
    fast.load_state_dict(plain.state_dict())
    accelerate(fast)

    assert list(fast.state_dict()) == list(plain.state_dict())
    assert "DroppedSDPA" in {type(m).__name__ for m in fast.modules()}
    assert "ChannelsLastFeatureConv1d" in {type(m).__name__ for m in fast.modules()}

    losses = []
    for model in (plain, fast):
        loss, output = run(model, labels, padded=padded, unmasked_weight=0.5)
        (loss.aggregate / output.num_targets).backward()
        losses.append((loss.aggregate.detach(), torch.get_rng_state()))

    torch.testing.assert_close(losses[0][0], losses[1][0], rtol=1e-5, atol=0.0)
    assert torch.equal(losses[0][1], losses[1][1]), "other random numbers were drawn"

    largest = max(float(p.grad.norm()) for p in plain.parameters() if p.grad is not None)

    for (name, param), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert param.grad is not None, name
        assert other.grad is not None, name
        assert (param.grad - other.grad).norm() <= 1e-5 * largest, name
