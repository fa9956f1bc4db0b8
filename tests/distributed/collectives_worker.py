"""Counts what is sent during the inner steps of an episode and during the backward pass after them.

    collectives_worker.py FAMILY OUTPUT

Started by torchrun; writes a JSON file from rank 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import eqssl_speech  # noqa: F401  # isort: skip  # Before fairseq2, as it makes libsndfile findable.

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from families import make_batch, make_criterion, make_micro_model
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from eqssl_speech.data.episodes import Episode
from eqssl_speech.equilibrium import EquilibriumOptimizer
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss

NUM_INNER_STEPS = 3


def main(family: str, output: Path) -> None:
    torch.set_num_threads(1)

    init_process_group("gloo")

    torch.manual_seed(0)

    module = make_micro_model(family, fast=False)
    model = DistributedDataParallel(module, broadcast_buffers=False)  # as the host builds it
    optimizer = EquilibriumOptimizer(
        torch.optim.AdamW(module.parameters()),
        num_inner_steps=NUM_INNER_STEPS,
        inner_lr=0.01,
        outer_weights="uniform",
    )
    loss_fn = EpisodeLoss(model, module, make_criterion(module), optimizer)

    torch.manual_seed(get_rank())

    batches = [make_batch(family, torch.randn(1, 32_000)) for _ in range(NUM_INNER_STEPS + 1)]

    with profile(activities=[ProfilerActivity.CPU]) as inner:
        loss = loss_fn(Episode("x", batches)).loss

    with profile(activities=[ProfilerActivity.CPU]) as outer:
        loss.backward()

    if get_rank() == 0:
        output.write_text(json.dumps({"inner": count(inner), "outer": count(outer)}))

    destroy_process_group()


def count(result: profile) -> int:
    return sum(e.name.startswith(("gloo:", "c10d::")) for e in result.events())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
