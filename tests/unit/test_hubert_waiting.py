"""A training step of HuBERT waits for nothing: on the device ``meta``, whatever would need a value raises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from fairseq2.nn import BatchLayout
from meta_device import META, complete_meta

from eqssl_speech.models.hubert import HubertModel, create_hubert_model
from eqssl_speech.models.hubert.config import micro_config
from eqssl_speech.models.wav2vec2 import accelerate


@pytest.fixture(autouse=True)
def meta_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the device what torch leaves out."""
    with complete_meta(monkeypatch):
        yield


def make_model(**overrides: Any) -> HubertModel:
    config = replace(micro_config([16, 5]), **overrides)

    model = accelerate(create_hubert_model(config)).to(META)
    assert isinstance(model, HubertModel)

    return model


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
@pytest.mark.parametrize(
    "overrides", [{}, {"max_spatial_mask_prob": 0.9}, {"shared_final_proj": True}], ids=str
)
@pytest.mark.parametrize("seq_lens", [None, [20_000, 17_000, 16_001]])
def test_a_training_step_waits_for_nothing(
    seq_lens: list[int] | None, overrides: dict[str, Any], unmasked_weight: float
) -> None:
    model = make_model(**overrides)
    seqs = torch.empty(3, 20_000, device=META)
    labels = torch.empty(2, 3, 62, dtype=torch.int64, device=META)

    loss, output = model(
        seqs, BatchLayout.of(seqs, seq_lens), labels, unmasked_weight=unmasked_weight
    )
    (loss.aggregate / output.num_targets).backward()

    assert [x.shape for x in output.logits] == [
        (3, output.num_targets // 3, 16),
        (3, output.num_targets // 3, 5),
    ]
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())

    if output.unmasked_logits is not None:
        num_frames = 3 * 62 if seq_lens is None else 62 + 52 + 49
        assert len(output.unmasked_logits[0]) == num_frames - output.num_targets


def test_a_look_at_a_value_raises() -> None:
    """Or the test above could not fail."""
    model = make_model()
    seqs = torch.empty(3, 20_000, device=META)
    mask = torch.empty(3, 62, dtype=torch.bool, device=META)

    with pytest.raises((RuntimeError, NotImplementedError), match=r"[mM]eta|item"):
        model.compute_logits(model.encoder_frontend(seqs, BatchLayout.of(seqs))[0][mask])
