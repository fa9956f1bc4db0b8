"""Checkpoints of the parts of a run, without a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from fairseq2.device import CPU
from fairseq2.file_system import LocalFileSystem
from fairseq2.gang import create_fake_gangs
from fairseq2.utils.threading import ThreadPool

from eqssl_speech.data.readers import BATCH_NUM_SAMPLES, NUM_UTTERANCES
from eqssl_speech.tasks.checkpoints import TrustedCheckpointManager


class Part:
    """A part of a run that has a state."""

    def __init__(self, state: dict[str, object]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, object]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.state = state_dict


class Later(ThreadPool):
    """Does nothing until it is told to."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def queue(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        self.work.append(lambda: future.set_result(callback(*args, **kwargs)))

        return future

    def run(self) -> None:
        while self.work:
            self.work.pop()()


class Now(Later):
    """Does everything at once."""

    def queue(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().queue(callback, *args, **kwargs)

        self.run()

        return future


def make_parts(seed: int) -> list[Part]:
    """Make the parts: trainer, model, optimizer and data reader."""
    generator = torch.Generator().manual_seed(seed)

    weight = torch.randn(40, 30, generator=generator)

    return [
        Part({"_step_nr": seed, "rng": [generator.get_state()], "groups": OrderedDict(a=[0.5, seed])}),
        Part({"weight": weight}),
        Part({"state": {0: {"exp_avg": weight / 2, "step": torch.tensor(seed)}}}),
        Part({"step_nr": seed, "positions": [[seed, 2]], BATCH_NUM_SAMPLES: 800, NUM_UTTERANCES: [3, 50]}),
    ]  # fmt: skip


def make_manager(directory: Path, pool: ThreadPool | None = None) -> TrustedCheckpointManager:
    """Make a manager of one rank, as a run does when it starts."""
    manager = TrustedCheckpointManager(
        directory, create_fake_gangs(CPU), LocalFileSystem(), pool or Now()
    )
    manager.prepare()

    return manager


def save(manager: TrustedCheckpointManager, step_nr: int, **kwargs: Any) -> None:
    """Save a checkpoint."""
    manager.save_checkpoint(step_nr, *make_parts(step_nr), blocking=True, **kwargs)


def list_files(step_dir: Path) -> list[Path]:
    """List the files of a checkpoint."""
    return sorted(file for file in step_dir.rglob("*") if file.is_file())


def flip(file: Path, position: int) -> None:
    """Flip a bit of a byte."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << (position % 8)
    file.write_bytes(content)


def write_as_older_version(directory: Path, step_nr: int, parts: list[Part]) -> None:
    """Write a checkpoint as the versions did that knew no checksums."""
    shard = "pp_00/tp_00/sdp_00"
    names = ["trainer/rank_00", f"model/{shard}", f"optimizer/{shard}", "data_reader/dp_00"]

    for name, part in zip(names, parts):
        file = directory / f"step_{step_nr}" / f"{name}.pt"
        file.parent.mkdir(parents=True)
        torch.save(part.state, file, pickle_protocol=2 if name.startswith("model") else 5)
