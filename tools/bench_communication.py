#!/usr/bin/env python3
"""What local inner steps save: audio trained on per byte sent, in two processes of distributed data parallelism.

    .venv/bin/python tools/bench_communication.py
    .venv/bin/python tools/bench_communication.py --size base --batch 1x4s --steps 3 --json FILE

An outer step of K inner steps trains on K+1 batches in each process and sends one gradient. Rows: K = 0, 1, 3 of the
method, and beside them conventional training on as many batches, once sending after each (an update each), once adding
the gradients up before one update, which sends as little as the method does. Bytes are those of the gradients that a
process hands to the all-reduce, counted in its communication hook. The rows take turns in one pair of processes on
gloo; times are medians over outer steps.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import eqssl_speech  # noqa: F401  # isort: skip  # Finds libsndfile before fairseq2 is imported.

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _bench.job import SAMPLE_RATE, SIZES, parse_batch
from fairseq2.datasets import SequenceBatch
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from rich.console import Console
from rich.table import Table
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from eqssl_speech.criteria.base import LossSection
from eqssl_speech.criteria.wav2vec2 import Wav2Vec2Criterion
from eqssl_speech.data.episodes import Episode
from eqssl_speech.equilibrium import EquilibriumOptimizer
from eqssl_speech.models.wav2vec2 import accelerate, prepare_model
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss


def main() -> int:
    """Run the benchmark."""
    args = parse_args()

    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]

    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}

    mp.spawn(run, (args,), nprocs=args.procs)

    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=sorted(SIZES), default="tiny")
    add("--batch", default="2x4s", help="of a process: utterances x seconds (default: %(default)s)")
    add("--inner-steps", type=int, nargs="+", default=[1, 3], metavar="K")
    add("--steps", type=int, default=7, help="outer steps of each row (default: %(default)s)")
    add("--procs", type=int, default=2)
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    args = parser.parse_args()

    try:
        parse_batch(args.batch)
    except ValueError as ex:
        parser.error(str(ex))

    if min(args.inner_steps) < 1 or args.steps < 1 or args.procs < 2:
        parser.error("`--inner-steps` and `--steps` must be at least 1 and `--procs` at least 2.")

    return args


class Trainer:
    """A model in one of the processes, and the ways to train it."""

    def __init__(self, args: argparse.Namespace) -> None:
        """:param args: The command line."""
        torch.manual_seed(0)

        self.num_bytes = 0

        self._module = accelerate(prepare_model(create_wav2vec2_model(SIZES[args.size]())))
        self._model = DistributedDataParallel(self._module, broadcast_buffers=False)
        self._model.register_comm_hook(None, self._count)  # type: ignore[arg-type]
        self._criterion = Wav2Vec2Criterion(self._module, LossSection())  # type: ignore[arg-type]

        batch_size, num_samples = parse_batch(args.batch)
        generator = torch.Generator().manual_seed(dist.get_rank())
        self._batches = [
            SequenceBatch(torch.randn(batch_size, num_samples, generator=generator), None)
            for _ in range(max(args.inner_steps) + 1)
        ]

    def equilibrium(self, num_inner_steps: int) -> Callable[[], None]:
        """Return an outer step of the method."""
        optimizer = EquilibriumOptimizer(
            torch.optim.AdamW(self._module.parameters(), lr=1e-5),
            num_inner_steps=num_inner_steps,
            inner_lr=0.01,
        )
        loss = EpisodeLoss(self._model, self._module, self._criterion, optimizer)
        episode = Episode("noise", self._batches[: num_inner_steps + 1])

        def step() -> None:
            loss(episode).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def conventional(self, num_batches: int, *, accumulate: bool) -> Callable[[], None]:
        """Return conventional training on so many batches, in one update or in one each."""
        optimizer = torch.optim.AdamW(self._module.parameters(), lr=1e-5)

        def step() -> None:
            for i, batch in enumerate(self._batches[:num_batches]):
                is_last = i == num_batches - 1

                with self._model.no_sync() if accumulate and not is_last else nullcontext():
                    self._criterion(self._model, batch).loss.backward()

                if is_last or not accumulate:
                    optimizer.step()
                    optimizer.zero_grad()

        return step

    # Without annotations, since torch compares them with the classes, not with their names.
    def _count(self, state, bucket):  # type: ignore[no-untyped-def]
        self.num_bytes += bucket.buffer().nbytes

        return allreduce_hook(None, bucket)


def run(rank: int, args: argparse.Namespace) -> None:
    """Measure in one of the processes."""
    torch.set_num_threads(1)

    dist.init_process_group("gloo", rank=rank, world_size=args.procs)

    trainer = Trainer(args)

    rows: dict[str, tuple[int, Callable[[], None]]] = {"K = 0": (1, trainer.equilibrium(0))}
    for k in args.inner_steps:
        rows |= {
            f"K = {k}": (k + 1, trainer.equilibrium(k)),
            f"conventional, {k + 1} updates": (
                k + 1,
                trainer.conventional(k + 1, accumulate=False),
            ),
            f"conventional, {k + 1} batches an update": (
                k + 1,
                trainer.conventional(k + 1, accumulate=True),
            ),
        }

    times_s: dict[str, list[float]] = {name: [] for name in rows}
    num_bytes = {}

    for turn in range(args.steps + 1):
        for name, (_, step) in rows.items():
            dist.barrier()
            trainer.num_bytes = 0
            start = time.perf_counter()

            step()

            dist.barrier()
            num_bytes[name] = trainer.num_bytes

            if turn > 0:  # The first is the warm-up, in which the buckets are laid out.
                times_s[name].append(time.perf_counter() - start)

    if rank == 0:
        report(args, {n: count for n, (count, _) in rows.items()}, times_s, num_bytes)

    dist.destroy_process_group()


def report(
    args: argparse.Namespace,
    num_batches: dict[str, int],
    times_s: dict[str, list[float]],
    num_bytes: dict[str, int],
) -> None:
    """Print the table and write the file."""
    batch_size, num_samples = parse_batch(args.batch)
    batch_s = args.procs * batch_size * num_samples / SAMPLE_RATE

    rows: dict[str, dict[str, Any]] = {}
    for name, times in times_s.items():
        audio_s = num_batches[name] * batch_s
        rows[name] = {
            "audio_s_per_s": audio_s / statistics.median(times),
            "bytes_per_outer_step": num_bytes[name],
            "audio_s_per_megabyte": audio_s / num_bytes[name] * 1e6,
            "times_s": times,
        }

    table = Table(title=f"{args.size}, {args.procs} processes, batches of {args.batch} in each")
    for column in ("", "audio s/s", "MB sent by a process", "audio s per MB", "over K = 0"):
        table.add_column(column, justify="right" if column else "left")

    base = rows["K = 0"]["audio_s_per_megabyte"]
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['audio_s_per_s']:.1f}",
            f"{row['bytes_per_outer_step'] / 1e6:.2f}",
            f"{row['audio_s_per_megabyte']:.2f}",
            f"{row['audio_s_per_megabyte'] / base:.2f}",
        )

    Console().print(table)

    if args.json is not None:
        result = {"size": args.size, "procs": args.procs, "batch": args.batch, "rows": rows}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
