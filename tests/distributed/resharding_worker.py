"""Loads the last checkpoint of a directory, whoever wrote it, and saves what it has loaded as the next.

    resharding_worker.py FAMILY MODE DIRECTORY

FAMILY is that of the model, MODE is as in replicas_worker.py. Where there is no checkpoint, the first is of a model and
an optimizer that have made two steps, and of ranks that have counted differently.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eqssl_speech  # noqa: F401  # isort: skip  # Before fairseq2, as it makes libsndfile findable.

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from fairseq2.device import CPU
from fairseq2.file_system import LocalFileSystem
from fairseq2.metrics import MetricBag, Sum
from fairseq2.nn.data_parallel import get_data_parallel_facade
from fairseq2.utils.threading import _StandardThreadPool
from families import make_micro_model
from replicas_worker import make_gangs, wrap
from torch.distributed.tensor import DTensor
from torch.nn import Module
from torch.optim import AdamW

from eqssl_speech.criteria.metrics import LostEpisodes
from eqssl_speech.data.readers import BATCH_NUM_SAMPLES, NUM_UTTERANCES
from eqssl_speech.tasks.checkpoints import TrustedCheckpointManager


class Trainer:
    """What of the host's trainer a checkpoint holds that ranks differ in."""

    def __init__(self, rank: int) -> None:
        self.bag = MetricBag(CPU)
        self.bag.add("total_seconds", Sum())
        self.bag.add("total_lost", LostEpisodes())
        self.generator = torch.Generator().manual_seed(1000 + rank)
        self._trainer = SimpleNamespace(_metric_bag=self.bag)

    def count(self, rank: int) -> None:
        """Count as a rank of the first checkpoint."""
        self.bag.get("total_seconds", Sum).update(10.0**rank)
        lost = self.bag.get("total_lost", LostEpisodes)

        for _ in range(rank + 1):
            lost.update("exploded")

        lost.lower()

    def state_dict(self) -> dict[str, Any]:
        return {"_metric_bag": self.bag.state_dict(), "_rng_bag": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.bag.load_state_dict(state_dict["_metric_bag"])
        self.generator.set_state(state_dict["_rng_bag"])


class Reader:
    """Where each source is in its passes."""

    def __init__(self) -> None:
        self.state: dict[str, object] = {BATCH_NUM_SAMPLES: 16_000, NUM_UTTERANCES: [3, 50]}

    def state_dict(self) -> dict[str, object]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.state = state_dict


def take_steps(model: Module, optimizer: AdamW) -> None:
    """Make two steps whose gradients do not hang on who computes them."""
    for step in (1, 2):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, step / (number + 3)) * parameter.detach()

        optimizer.step()
        optimizer.zero_grad()


def main(family: str, mode: str, directory: Path) -> None:
    torch.set_num_threads(1)
    gangs = make_gangs(mode)
    rank = gangs.root.rank

    torch.manual_seed(0)
    model = wrap(make_micro_model(family, fast=False), mode, gangs)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    facade = get_data_parallel_facade(model)
    trainer, reader = Trainer(rank), Reader()

    manager = TrustedCheckpointManager(directory, gangs, LocalFileSystem(), _StandardThreadPool(1))
    manager.prepare()

    step_nr = manager.maybe_get_last_step_number() or 0
    if step_nr == 0:
        take_steps(model, optimizer)
        trainer.count(rank)
    else:
        manager.load_trainer_state(step_nr, trainer)
        manager.load_model_state(step_nr, facade)
        manager.load_optimizer_state(step_nr, optimizer)
        manager.load_data_reader_state(step_nr, reader)

        for state in optimizer.state.values():
            for value in state.values():
                part = value.to_local() if isinstance(value, DTensor) else value

                # Not a view of the whole.
                assert part.untyped_storage().nbytes() == part.nbytes

    manager.save_checkpoint(step_nr + 1, trainer, facade, optimizer, reader, blocking=True)
    manager.close()

    # Or who is late to leave finds the others gone.
    gangs.root.barrier()
    gangs.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
