"""Pre-training that goes on from a directory of transformers begins with the loss that transformers has.

The same recordings, masks and distractors, and no chance in the quantizer: both draw from Gumbel's distribution, which
is replaced by its mode here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import Wav2Vec2Config as TransformersConfig
from transformers import Wav2Vec2ForPreTraining

from eqssl_speech.criteria.base import LossSection
from eqssl_speech.criteria.wav2vec2 import Wav2Vec2Criterion
from eqssl_speech.models.continuing import load_pretrained
from eqssl_speech.models.opening import open_checkpoint
from eqssl_speech.models.wav2vec2 import accelerate, expects_normalized_audio, prepare_model

TOLERANCE = 1e-5
"""Relative."""

CORPUS = Path(__file__).parents[2] / "recipes" / "quickstart" / "corpus"

NUM_SAMPLES, NUM_FRAMES, NUM_MASKED, NUM_DISTRACTORS = 24_000, 74, 30, 20

SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "codevector_dim": 768,
        "proj_codevector_dim": 768,
    },
}

UNREGULARIZED = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0
)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def randomize(model: Any) -> Any:
    """Move what is initialised to zeros and ones, the biases and norms, away from them."""
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim == 1:
                param.add_(0.1 * torch.randn(param.shape))

    return model


def read_recordings(num: int = 2) -> Tensor:
    """*Shape:* ``(N, S)``."""
    files = sorted((CORPUS / "ru-festvox").rglob("*.ogg"))[:num]
    rows = [soundfile.read(file, dtype="float32")[0][4000 : 4000 + NUM_SAMPLES] for file in files]

    return torch.stack([torch.from_numpy(row) for row in rows])


def take_the_mode(logits: Tensor, tau: float = 1.0, hard: bool = False, **_: Any) -> Tensor:
    """Stand for a draw from Gumbel's softmax, with its gradient."""
    soft = torch.softmax(logits / tau, dim=-1)
    mode = one_hot(logits.argmax(dim=-1), logits.size(-1)).to(soft)

    return mode - soft.detach() + soft


def draw_masks() -> tuple[Tensor, Tensor]:
    """Draw which frames are masked, *Shape:* ``(N, T)``, and distractors of each, *Shape:* ``(N, S, L)``."""
    mask = torch.zeros(2, NUM_FRAMES, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(NUM_FRAMES)[:NUM_MASKED]] = True

    distractors = torch.randint(0, NUM_MASKED - 1, (2, NUM_MASKED, NUM_DISTRACTORS))
    distractors += distractors >= torch.arange(NUM_MASKED).view(1, -1, 1)

    return mask, distractors


def place_distractors(mask: Tensor, distractors: Tensor) -> Tensor:
    """Number distractors as transformers does: among all frames of the batch. *Shape:* ``(N, T, L)``."""
    placed = torch.zeros(2, NUM_FRAMES, NUM_DISTRACTORS, dtype=torch.long)

    for i, (row, indices) in enumerate(zip(mask, distractors, strict=True)):
        positions = row.nonzero().squeeze(1)
        placed[i, positions] = positions[indices] + i * NUM_FRAMES

    return placed


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_loss_is_that_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, fast: bool
) -> None:
    settings = {**SHAPES[shape], **UNREGULARIZED, "num_negatives": NUM_DISTRACTORS}
    theirs = randomize(
        Wav2Vec2ForPreTraining(TransformersConfig(num_hidden_layers=2, **settings))
    ).train()
    theirs.save_pretrained(tmp_path)

    checkpoint = open_checkpoint(tmp_path)
    config = checkpoint.config
    model = create_wav2vec2_model(config)  # type: ignore[arg-type]
    report = load_pretrained(model, config, checkpoint)  # type: ignore[arg-type]

    assert (report.left_out, report.newly_made, report.reshaped) == ({}, {}, {})

    model = prepare_model(model)  # type: ignore[assignment]
    if fast:
        model = accelerate(model)  # type: ignore[assignment]

    mask, distractors = draw_masks()

    monkeypatch.setattr("eqssl_speech.models.wav2vec2.quantizer.gumbel_softmax", take_the_mode)
    monkeypatch.setattr("torch.nn.functional.gumbel_softmax", take_the_mode)
    monkeypatch.setattr(model.masker, "mask_factory", lambda **_: mask)
    if fast:
        monkeypatch.setattr(model, "_sample_distractors", lambda targets: distractors)
    else:
        rows = torch.arange(2).view(-1, 1, 1)
        monkeypatch.setattr(
            model, "_sample_distractors", lambda targets: targets[rows, distractors]
        )

    waveforms = read_recordings()
    if expects_normalized_audio(config.encoder_config):
        waveforms = torch.nn.functional.layer_norm(waveforms, waveforms.shape[1:])

    criterion = Wav2Vec2Criterion(
        model, LossSection(diversity_weight=0.1, feature_penalty_weight=0.0)
    )
    ours = criterion(model.train(), SequenceBatch(waveforms, None))

    expected = theirs(
        waveforms,
        mask_time_indices=mask,
        sampled_negative_indices=place_distractors(mask, distractors),
    )

    num_targets = 2 * NUM_MASKED

    assert ours.num_targets == num_targets
    assert ours.loss.item() == pytest.approx(expected.loss.item() / num_targets, rel=TOLERANCE)
    assert ours.main_loss.item() == pytest.approx(
        expected.contrastive_loss.item() / num_targets, rel=TOLERANCE
    )

    ours.loss.backward()
    (expected.loss / num_targets).backward()

    projections = (
        (model.final_proj, theirs.project_hid),
        (model.final_target_proj, theirs.project_q),
        (model.quantizer.entry_proj, theirs.quantizer.weight_proj),
    )
    for mine, other in projections:
        torch.testing.assert_close(mine.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-6)
