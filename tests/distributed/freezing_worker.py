"""Trains a small ASR model with a freezing schedule on the batches of two replicas.

With torchrun on two processes, as the host wraps the model; without it on one. Each process writes the parameters after
every step to a file of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import eqssl_speech  # noqa: F401  # isort: skip  # Before fairseq2, as it makes libsndfile findable.

import torch
from fairseq2.device import CPU
from fairseq2.gang import ProcessGroupGang, create_parallel_gangs
from fairseq2.models.wav2vec2.asr import create_wav2vec2_asr_model
from fairseq2.nn import BatchLayout
from fairseq2.nn.ddp import to_ddp
from torch import Tensor
from torch.nn import Module
from torch.optim import AdamW

from eqssl_speech.models.wav2vec2.asr import micro_asr_config
from eqssl_speech.models.wav2vec2.freezing import FreezeSchedule

NUM_REPLICAS = 2
NUM_STEPS = 5


def main(output: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)

    module = create_wav2vec2_asr_model(micro_asr_config()).train()
    schedule = FreezeSchedule(module, feature_extractor=True, num_encoder_steps=2)
    schedule.prepare()

    model, replicas = wrap(module, schedule)

    # A larger epsilon, as AdamW turns rounding noise in entries that are nearly zero into whole steps.
    optimizer = AdamW(module.parameters(), lr=0.01, eps=1e-3, weight_decay=0.5)

    history = [snapshot(module)]

    for step_nr in range(1, NUM_STEPS + 1):
        schedule.apply(step_nr)

        for replica in replicas:
            (compute_loss(model, step_nr, replica) / len(replicas)).backward()

        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        history.append(snapshot(module))

    torch.save(history, output / f"{'-'.join(map(str, replicas))}.pt")


def wrap(module: Module, schedule: FreezeSchedule) -> tuple[Module, list[int]]:
    """Return the model to train and the replicas whose batches this process has."""
    if "WORLD_SIZE" not in os.environ:
        return module, list(range(NUM_REPLICAS))

    gangs = create_parallel_gangs(ProcessGroupGang.create_default_process_group(CPU))

    model = to_ddp(module, gangs, find_unused_parameters=not schedule.has_static_graph)

    return model, [gangs.dp.rank]


def compute_loss(model: Module, step_nr: int, replica: int) -> Tensor:
    """The loss of the batch that a replica has at a step; its random draws belong to the batch."""
    torch.manual_seed(100 * step_nr + replica)

    # The second one's batch is too short to be masked: the masker's embedding gets a gradient of zero.
    num_samples = (16_000, 4_000)[replica]

    logits, _ = model(torch.randn(2, num_samples), BatchLayout((2, num_samples), None))

    return -logits.log_softmax(dim=-1)[..., 1 + replica].mean()


def snapshot(module: Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in module.named_parameters()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
