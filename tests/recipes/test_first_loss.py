"""The first loss of a run that goes on from a directory of transformers is the one that transformers computes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_runs import ENV, FEW_STEPS, ON_THE_SAMPLE, REPOSITORY, Run, list_command
from started import start
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

TOLERANCE = 1e-5
"""Relative."""

WORKER = Path(__file__).with_name("first_loss_worker.py")

# The sizes of `tiny`, so that a run takes seconds.
SMALL: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "conv_dim": (48,) * 7,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_quantizer_dropout": 0.0,
    "layerdrop": 0.0,
}

NORMS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


def compute_loss(model: Any, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compute the loss of transformers on the same waveforms, masks, distractors and codes."""
    mask: Tensor = drawn["mask"]
    num_rows, num_frames = mask.shape
    positions = mask.nonzero()[:, 1].view(num_rows, -1)
    num_codebooks, num_entries = drawn["codes"].shape[1:]

    # It numbers distractors among all frames of the batch.
    distractors = torch.zeros(num_rows, num_frames, drawn["distractors"].shape[-1]).long()
    codes = torch.zeros(num_rows, num_frames, num_codebooks, num_entries)
    codes[mask] = drawn["codes"]

    for row in range(num_rows):
        chosen = positions[row][drawn["distractors"][row]]
        distractors[row, positions[row]] = chosen + row * num_frames

    monkeypatch.setattr(
        "torch.nn.functional.gumbel_softmax", lambda *_, **__: codes.view(-1, num_entries)
    )

    return model(drawn["waveforms"], mask_time_indices=mask, sampled_negative_indices=distractors)


@pytest.mark.parametrize(("norms", "num_inner_steps"), [("base", 1), ("large", 3)])
def test_the_first_loss_of_a_run_is_that_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norms: str, num_inner_steps: int
) -> None:
    torch.manual_seed(2)
    theirs = Wav2Vec2ForPreTraining(Wav2Vec2Config(**SMALL, **NORMS[norms])).train()
    theirs.save_pretrained(tmp_path / "hf")

    settings = {
        **FEW_STEPS,
        **ON_THE_SAMPLE,
        "pretrained": tmp_path / "hf",
        "dataset.audio_seconds_per_update": 48,
        "dataset.sources_per_step": 2,
        "equilibrium.num_inner_steps": num_inner_steps,
        "equilibrium.start_after_num_steps": 0,
        "equilibrium.num_inner_warmup_steps": 0,
        "regime.num_steps": 2,
        "regime.validate_at_start": "false",
        "lr_scheduler.config.num_warmup_steps": 1,
        "regime.publish_metrics_every_n_steps": 1,
        "trainer.mixed_precision.mode": "off",
    }
    preset = REPOSITORY / "recipes" / "continued" / "wav2vec2.yaml"
    _, _, _, *arguments = list_command("pretrain", tmp_path / "out", settings, config_file=preset)
    losses = tmp_path / "losses.pt"

    status, log = start([str(losses), *arguments], ENV, timeout_s=600, script=WORKER)

    assert status == 0, log

    run = Run(status, log, tmp_path / "out")

    records = torch.load(losses)[:2]
    expected = []

    for drawn in records:
        output = compute_loss(theirs, drawn, monkeypatch)
        num_targets = int(drawn["mask"].sum())
        expected.append(output.contrastive_loss.item() / num_targets)

        assert drawn["loss"] == pytest.approx(output.loss.item() / num_targets, rel=TOLERANCE)
        assert drawn["contrastive"] == pytest.approx(expected[-1], rel=TOLERANCE)

    # One for each source, before it is adapted to; the log has their mean, in bits.
    row = run.rows("train")[0]

    assert row["Step"] == 1
    assert row["inner_lr"] > 0.0
    assert row["plain_loss"] == pytest.approx(sum(expected) / 2 / math.log(2), rel=TOLERANCE)
