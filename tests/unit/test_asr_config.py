"""The ASR architectures for small machines, and configurations that fit a pre-trained encoder."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from fairseq2.models.wav2vec2.asr import (
    Wav2Vec2AsrConfig,
    create_wav2vec2_asr_model,
    get_wav2vec2_asr_model_hub,
)
from fairseq2.nn import BatchLayout

from eqssl_speech.models.wav2vec2.asr import (
    REGULARIZATION,
    fit_asr_config,
    micro_asr_config,
    tiny_asr_config,
)
from eqssl_speech.models.wav2vec2.config import micro_config, tiny_config

PAIRS = [(tiny_config, tiny_asr_config), (micro_config, micro_asr_config)]


@pytest.mark.parametrize("arch", ["tiny", "micro"])
def test_the_host_knows_the_architectures(arch: str, monkeypatch) -> None:
    # Of its own, whatever other tests have registered; and what it makes is forgotten.
    monkeypatch.setattr("fairseq2.runtime.dependency._resolver", None)

    expected = {"tiny": tiny_asr_config, "micro": micro_asr_config}[arch]()

    assert get_wav2vec2_asr_model_hub().get_arch_config(arch) == expected


@pytest.mark.parametrize(("pretraining", "fine_tuning"), PAIRS)
def test_an_architecture_computes_what_its_pretraining_does(pretraining, fine_tuning) -> None:
    theirs = asdict(pretraining().encoder_config)
    ours = asdict(fine_tuning().encoder_config)

    assert {n for n in theirs if theirs[n] != ours[n]} <= set(REGULARIZATION)


@pytest.mark.parametrize("duration_s", [0.25, 0.7, 3.0])
@pytest.mark.parametrize(("pretraining", "fine_tuning"), PAIRS)
def test_short_and_long_utterances_can_be_masked(pretraining, fine_tuning, duration_s) -> None:
    torch.manual_seed(0)
    model = create_wav2vec2_asr_model(fine_tuning()).train()
    num_samples = int(16_000 * duration_s)

    logits, _ = model(torch.randn(1, num_samples), BatchLayout((1, num_samples), None))
    logits.sum().backward()

    # Also where no span fits, data parallelism waits for this gradient.
    assert model.masker.temporal_mask_embed.grad is not None


@pytest.mark.parametrize(("pretraining", "fine_tuning"), PAIRS)
def test_masks_hide_a_moderate_share(pretraining, fine_tuning) -> None:
    torch.manual_seed(0)
    masker = create_wav2vec2_asr_model(fine_tuning()).masker
    dim = pretraining().encoder_config.model_dim

    seqs, mask = masker(torch.ones(16, 250, dim), BatchLayout((16, 250), None))

    assert 0.15 < mask.float().mean() < 0.3
    assert 0.05 < (seqs == 0.0).float().mean() < 0.25


def test_a_configuration_takes_the_encoder_of_another_and_keeps_its_regularization() -> None:
    base = Wav2Vec2AsrConfig(final_dropout_p=0.1)
    encoder = tiny_config().encoder_config
    encoder.dropout_p = 0.3
    encoder.layer_drop_p = 0.2
    base.encoder_config.layer_drop_p = 0.05

    fitted = fit_asr_config(base, encoder, vocab_size=57)

    assert fitted.target_vocab_size == 57
    assert fitted.final_dropout_p == 0.1
    assert fitted.encoder_config.model_dim == 192
    assert fitted.encoder_config.num_encoder_attn_heads == 4
    assert fitted.encoder_config.norm_order == encoder.norm_order
    assert fitted.encoder_config.ffn_inner_dim == 768
    assert fitted.encoder_config.dropout_p == 0.0
    assert fitted.encoder_config.ffn_inner_dropout_p == 0.1
    assert fitted.encoder_config.layer_drop_p == 0.05
    # Arguments stay as they are.
    assert base.encoder_config.model_dim == 768
    assert encoder.dropout_p == 0.3


def test_masks_of_a_large_architecture_fit_a_small_encoder() -> None:
    # As they are, they do not: fewer than two spans of 64 features fit into 192.
    fitted = fit_asr_config(Wav2Vec2AsrConfig(), tiny_config().encoder_config, vocab_size=8)
    model = create_wav2vec2_asr_model(fitted).train()

    model(torch.randn(1, 16_000), BatchLayout((1, 16_000), None))

    assert fitted.spatial_mask_span_len == 16
