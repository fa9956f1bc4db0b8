"""The cost model counts what torch counts when the model runs."""

from __future__ import annotations

import pytest
import torch
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from torch.utils.flop_counter import FlopCounterMode

from eqssl_speech.models.wav2vec2 import accelerate, prepare_model
from eqssl_speech.models.wav2vec2.config import micro_config, tiny_config
from eqssl_speech.models.wav2vec2.cost import step_costs


@pytest.mark.parametrize("make_config", [micro_config, tiny_config])
def test_operations_are_those_that_torch_counts(make_config):
    config = make_config()
    encoder = config.encoder_config
    encoder.feature_extractor_layer_norm_convs = True

    model = accelerate(prepare_model(create_wav2vec2_model(config)))
    seqs = torch.randn(2, 24_000)

    with FlopCounterMode(display=False, depth=4) as counter:
        _, output = model(seqs, BatchLayout.of(seqs))

    counts = {
        name.split(".", 1)[1]: sum(ops.values())
        for name, ops in counter.get_flop_counts().items()
        if "." in name
    }

    num_targets = output.logits.size(1)
    num_frames = output.encoder_output.size(1)

    costs = step_costs(config, 2, 24_000, num_targets)

    # A third of a step's, but for the first convolution, which has two thirds of its own there.
    forward = {part: cost.flops / 3 for part, cost in costs.items()}
    forward["feature extractor"] += 2 * 2 * 4_799 * 10 * encoder.feature_dim / 3

    # What torch does not count on the CPU: scores and weighted sums.
    attention = 4 * 2 * num_frames**2 * encoder.model_dim * encoder.num_encoder_layers
    product = 2 * 2 * num_targets**2 * config.final_dim

    for part, count in {
        "feature extractor": counts["encoder_frontend.feature_extractor"],
        "frontend rest": counts["encoder_frontend.model_dim_proj"]
        + counts["encoder_frontend.pos_encoder"],
        "encoder": counts["encoder"] + attention,
        "quantizer": counts["quantizer"],
        "contrast": counts["final_proj"] + counts["final_target_proj"] + product,
    }.items():
        # The position encoder computes a frame that it then drops.
        assert forward[part] == pytest.approx(count, rel=0.02 if part == "frontend rest" else 1e-6)


def test_costs_grow_as_they_should():
    config = tiny_config()

    one, two = (step_costs(config, n, 32_000, 40) for n in (1, 2))
    long = step_costs(config, 1, 64_000, 80)

    for part, cost in one.items():
        assert two[part].flops == 2 * cost.flops
        assert cost.num_elements < two[part].num_elements < 2 * cost.num_elements
        assert cost.intensity < two[part].intensity

    # Attention, and the product of all targets with all, grow with the square.
    assert long["encoder"].flops > 2.0 * one["encoder"].flops
    assert long["contrast"].flops > 2.0 * one["contrast"].flops
