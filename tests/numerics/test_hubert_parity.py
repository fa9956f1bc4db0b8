"""The same weights, waveforms and masks give the features, logits and losses of transformers' and torchaudio's HuBERT.

To 1e-4, absolute, in float32: features are of the order 1 and logits of the order 10, behind sums of some 1e3 products.

**Padding.** The three agree on what is an utterance's own, and say so for it. Where the feature extractor has a group
norm (base), all three take its mean and variance over the padding as well, so that an utterance's features depend on
what it is padded to; where it has layer norms (large), they do not. What stands at padded frames differs between the
three and means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy
from torchaudio.models import hubert_pretrain_model
from torchaudio.models.wav2vec2 import components
from transformers import HubertConfig as HuggingFaceConfig
from transformers import HubertModel as HuggingFaceModel

from eqssl_speech.models.hubert import (
    HubertConfig,
    HubertModel,
    HubertOutput,
    convert_hubert_state_dict,
    create_hubert_model,
)
from eqssl_speech.models.hubert.config import base_config, large_config
from eqssl_speech.models.wav2vec2 import accelerate

TOLERANCE = 1e-4

NUM_SAMPLES = [12_000, 8_321, 10_000]
NUM_FRAMES = [37, 25, 31]

ARCHS: dict[str, Callable[[], HubertConfig]] = {"base": base_config, "large": large_config}

# The shapes of the architectures, but for the number of layers.
SHAPES = [(name, 2) for name in ARCHS]

Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def make_config(arch: str, num_layers: int | None) -> HubertConfig:
    config = ARCHS[arch]()
    encoder = config.encoder_config

    if num_layers is not None:
        encoder = replace(encoder, num_encoder_layers=num_layers)

    # The converter's default refuses a release of Hugging Face, which has no head.
    return replace(config, encoder_config=encoder, num_codes=[37], init_missing_head=True)


def make_audio(padded: bool) -> tuple[Tensor, list[int] | None]:
    seqs = 0.1 * torch.randn(len(NUM_SAMPLES), max(NUM_SAMPLES))

    if not padded:
        return seqs, None

    for row, num_samples in zip(seqs, NUM_SAMPLES, strict=True):
        row[num_samples:] = 0.0

    return seqs, NUM_SAMPLES


def make_mask(num_masked: int = 15) -> Tensor:
    """Mask frames of each utterance that are its own. *Shape:* ``(N, T)``."""
    mask = torch.zeros(len(NUM_FRAMES), max(NUM_FRAMES), dtype=torch.bool)

    for row, num_frames in zip(mask, NUM_FRAMES, strict=True):
        row[torch.randperm(num_frames)[:num_masked]] = True

    return mask


def find_own(padded: bool) -> Tensor:
    """Say which frames are no padding. *Shape:* ``(N, T)``."""
    limits = torch.tensor(NUM_FRAMES if padded else [max(NUM_FRAMES)] * len(NUM_FRAMES))

    return torch.arange(max(NUM_FRAMES)) < limits.unsqueeze(1)


def randomize(model: Module) -> Module:
    """Move what is initialised to zeros and ones, the biases and norms, away from them."""
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim == 1:
                param.add_(0.1 * torch.randn(param.shape))

    return model.eval()


def make_ours(theirs: Module, config: HubertConfig) -> HubertModel:
    model = create_hubert_model(config)
    model.load_state_dict(convert_hubert_state_dict(dict(theirs.state_dict()), config))

    return model.eval()


def run_ours(
    model: HubertModel, seqs: Tensor, seq_lens: list[int] | None, mask: Tensor, labels: Tensor
) -> tuple[Any, HubertOutput]:
    model.masker.mask_factory = lambda **_: mask

    with torch.no_grad():
        return model(
            seqs.clone(), BatchLayout.of(seqs, seq_lens), labels.unsqueeze(0), unmasked_weight=1.0
        )


def make_hugging_face(config: HubertConfig) -> HuggingFaceModel:
    encoder = config.encoder_config
    is_large = encoder.feature_extractor_layer_norm_convs

    return randomize(
        HuggingFaceModel(
            HuggingFaceConfig(
                hidden_size=encoder.model_dim,
                num_hidden_layers=encoder.num_encoder_layers,
                num_attention_heads=encoder.num_encoder_attn_heads,
                intermediate_size=encoder.ffn_inner_dim,
                feat_extract_norm="layer" if is_large else "group",
                do_stable_layer_norm=is_large,
            )
        )
    )


def make_torchaudio(config: HubertConfig) -> Module:
    encoder = config.encoder_config
    is_large = encoder.feature_extractor_layer_norm_convs

    model = hubert_pretrain_model(
        extractor_mode="layer_norm" if is_large else "group_norm",
        extractor_conv_layer_config=None,
        extractor_conv_bias=False,
        encoder_embed_dim=encoder.model_dim,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=128,
        encoder_pos_conv_groups=16,
        encoder_num_layers=encoder.num_encoder_layers,
        encoder_num_heads=encoder.num_encoder_attn_heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=encoder.ffn_inner_dim,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=is_large,
        encoder_layer_drop=0.0,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=10,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=False,
        num_classes=config.num_codes[0],
        final_dim=config.final_dim,
        feature_grad_mult=None,
    )

    return randomize(model)


def assert_near(
    ours: Tensor, theirs: Tensor, record: Record, what: str, scale: float = 1.0
) -> None:
    assert ours.shape == theirs.shape
    assert torch.equal(ours.isinf(), theirs.isinf())

    finite = ~theirs.isinf()
    largest = float((ours[finite] - theirs[finite]).abs().max()) / scale

    record(what, largest)
    assert largest <= TOLERANCE


def check_hugging_face(arch: str, num_layers: int | None, *, padded: bool, record: Record) -> None:
    config = make_config(arch, num_layers)
    theirs = make_hugging_face(config)
    ours = make_ours(theirs, config)

    (seqs, seq_lens), mask, own = make_audio(padded), make_mask(), find_own(padded)
    labels = torch.randint(0, 37, mask.shape)

    is_sample = None
    if seq_lens is not None:
        is_sample = (torch.arange(seqs.size(1)) < torch.tensor(seq_lens).unsqueeze(1)).long()

    with torch.no_grad():
        features = theirs(
            seqs.clone(), attention_mask=is_sample, mask_time_indices=mask
        ).last_hidden_state

    # They have no head, so the paper's formula stands in for it.
    with torch.no_grad():
        logits = [
            torch.cosine_similarity(
                ours.final_proj(features[frames]).unsqueeze(1), ours.code_embeddings, dim=-1
            )
            / 0.1
            for frames in (mask, own & ~mask)
        ]

    expected = cross_entropy(logits[0], labels[mask], reduction="sum")

    for speed in ("plain", "fast"):
        if speed == "fast":
            accelerate(ours)

        loss, output = run_ours(ours, seqs, seq_lens, mask, labels)

        assert output.encoder_output_layout.seq_lens == own.sum(dim=1).tolist()
        assert_near(output.encoder_output[own], features[own], record, f"{speed}: features")
        assert_near(output.logits[0].flatten(0, 1), logits[0], record, f"{speed}: masked logits")
        assert output.unmasked_logits is not None
        assert_near(output.unmasked_logits[0], logits[1], record, f"{speed}: unmasked logits")
        assert_near(loss.masked, expected, record, f"{speed}: masked loss", float(expected))


def check_torchaudio(
    arch: str,
    num_layers: int | None,
    *,
    padded: bool,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(arch, num_layers)
    theirs = make_torchaudio(config)
    ours = make_ours(theirs, config)

    (seqs, seq_lens), mask, own = make_audio(padded), make_mask(), find_own(padded)
    labels = torch.randint(0, 37, mask.shape)

    monkeypatch.setattr(components, "_compute_mask_indices", lambda *_, **__: mask)

    features: list[Tensor] = []
    theirs.wav2vec2.encoder.transformer.register_forward_hook(
        lambda _module, _inputs, result: features.append(result)
    )

    with torch.no_grad():
        masked, unmasked, penalty = theirs(
            seqs.clone(), labels, None if seq_lens is None else torch.tensor(seq_lens)
        )

    sums = [
        cross_entropy(x, torch.zeros(len(x)).long(), reduction="sum") for x in (masked, unmasked)
    ]
    penalty = penalty * mask.sum()

    for speed in ("plain", "fast"):
        if speed == "fast":
            accelerate(ours)

        loss, output = run_ours(ours, seqs, seq_lens, mask, labels)

        assert_near(output.encoder_output[own], features[0][own], record, f"{speed}: features")

        assert output.unmasked_logits is not None

        for logits, reference, targets, what in (
            (output.logits[0].flatten(0, 1), masked, labels[mask], "masked"),
            (output.unmasked_logits[0], unmasked, labels[own & ~mask], "unmasked"),
        ):
            logits = put_label_first(logits, targets)
            assert_near(logits, reference, record, f"{speed}: {what} logits")

        for term, expected, what in (
            (loss.masked, sums[0], "masked"),
            (loss.unmasked, sums[1], "unmasked"),
            (loss.features_penalty, penalty, "features penalty"),
            (loss.aggregate, sums[0] + sums[1] + 10.0 * penalty, "aggregate"),
        ):
            assert_near(term, expected, record, f"{speed}: {what} loss", float(expected))


def put_label_first(logits: Tensor, labels: Tensor) -> Tensor:
    """Arrange logits as torchaudio does: that of the label first, and minus infinity where it stood."""
    labels = labels.unsqueeze(1)

    return torch.cat([logits.gather(1, labels), logits.scatter(1, labels, -torch.inf)], dim=1)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("arch", "num_layers"), SHAPES)
def test_features_and_logits_are_those_of_transformers(
    arch: str, num_layers: int, padded: bool, record_property: Record
) -> None:
    check_hugging_face(arch, num_layers, padded=padded, record=record_property)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("arch", "num_layers"), SHAPES)
def test_features_logits_and_losses_are_those_of_torchaudio(
    arch: str,
    num_layers: int,
    padded: bool,
    record_property: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_torchaudio(
        arch,
        num_layers,
        padded=padded,
        record=record_property,
        monkeypatch=monkeypatch,
    )


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("arch", list(ARCHS))
def test_the_whole_architecture_agrees_with_both(
    arch: str, padded: bool, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_for(library: str) -> Record:
        return lambda what, value: record_property(f"{library}: {what}", value)

    record = record_for("transformers")
    check_hugging_face(arch, None, padded=padded, record=record)

    record = record_for("torchaudio")
    check_torchaudio(arch, None, padded=padded, record=record, monkeypatch=monkeypatch)


@pytest.mark.parametrize(("arch", "depends"), [("base", True), ("large", False)])
def test_what_an_utterance_is_padded_to_matters_with_a_group_norm_in_all_three(
    arch: str, depends: bool, record_property: Record
) -> None:
    config = make_config(arch, 1)
    hugging_face, audio = make_hugging_face(config), make_torchaudio(config)
    ours = accelerate(make_ours(hugging_face, config))

    (seqs, seq_lens), num_frames = make_audio(True), NUM_FRAMES[1]
    assert seq_lens is not None
    alone = seqs[1:2, : seq_lens[1]]
    is_sample = (torch.arange(seqs.size(1)) < torch.tensor(seq_lens).unsqueeze(1)).long()

    with torch.no_grad():
        pairs = {
            "ours": [
                ours.encoder(*ours.encoder_frontend(x, BatchLayout.of(x, lens)))
                for x, lens in ((alone, None), (seqs, seq_lens))
            ],
            "transformers": [
                hugging_face(x, attention_mask=m).last_hidden_state
                for x, m in ((alone, None), (seqs, is_sample))
            ],
            "torchaudio": [
                audio.wav2vec2(x, lens)[0]
                for x, lens in ((alone, None), (seqs, torch.tensor(seq_lens)))
            ],
        }

    for library, (single, batched) in pairs.items():
        difference = float((single[0] - batched[1, :num_frames]).abs().max())

        record_property(library, difference)
        assert difference > 1e-2 if depends else difference <= TOLERANCE, library
