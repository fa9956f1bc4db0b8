"""Trains the same episodes on one process or several, with every way of sharing the work.

    replicas_worker.py MODE DTYPE OUTPUT_DIR NUM_STEPS CASE...

MODE is `one`, `ddp`, `fsdp` (all processes are one replica) or `hybrid` (two replicas). Whatever the mode, an episode's
batches have two parts, with random draws of their own; the processes of a sharded replica take one each. CASE is
FAMILY-K-EPISODES-WEIGHTS (`hubert-3-6-uniform`; EPISODES are those of an outer step over all replicas), with `-bad`
behind it where one part of an episode of the second step is no audio. Rank 0 writes for each case the parameters, the
collectives of an outer step and the bytes of the snapshot.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import eqssl_speech  # noqa: F401  # isort: skip  # Before fairseq2, as it makes libsndfile findable.

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.device import CPU
from fairseq2.gang import (
    FakeGang,
    Gangs,
    ProcessGroupGang,
    create_fsdp_gangs,
    create_parallel_gangs,
)
from fairseq2.nn.data_parallel import get_data_parallel_facade
from fairseq2.nn.ddp import to_ddp
from fairseq2.nn.fsdp import to_fsdp
from families import make_criterion, make_labels, make_micro_model, shard
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode

from eqssl_speech.criteria.base import Criterion, CriterionOutput
from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.labelled import LabelledBatch, SpeechBatch
from eqssl_speech.equilibrium import EquilibriumOptimizer, NonFiniteError
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss
from eqssl_speech.tasks.pretrain.optimizer import create_replica

NUM_PARTS = 2

_COLLECTIVES = {
    "c10d::allreduce_": "all_reduce",
    "_c10d_functional::all_reduce": "all_reduce",
    "c10d::_allgather_base_": "all_gather",
    "_c10d_functional::all_gather_into_tensor": "all_gather",
    "c10d::_reduce_scatter_base_": "reduce_scatter",
    "_c10d_functional::reduce_scatter_tensor": "reduce_scatter",
}


class PartsCriterion:
    """The mean loss of the parts of a batch that are this process's, each drawn with its own seed."""

    def __init__(self, criterion: Criterion, parts: range) -> None:
        self._criterion = criterion
        self._parts = parts

    def __call__(self, model: Module, batch: SpeechBatch) -> CriterionOutput:
        is_labelled = isinstance(batch, LabelledBatch)
        example = (batch.audio if is_labelled else batch).example
        outputs = []

        for part in self._parts:
            if example is not None:
                torch.manual_seed(example["seed"] + part)

            audio = SequenceBatch(batch.seqs[part], None)
            part_batch = LabelledBatch(audio, batch.labels[:, part]) if is_labelled else audio
            outputs.append(self._criterion(model, part_batch))

        loss = torch.stack([output.loss for output in outputs]).mean()

        return replace(outputs[0], loss=loss)


class CollectiveCounter(TorchDispatchMode):
    """Counts what is sent, by the name of the operation."""

    def __init__(self) -> None:
        super().__init__()

        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _COLLECTIVES.get(func._schema.name)
        if name is not None:
            self.counts[name] += 1

        return func(*args, **(kwargs or {}))


def make_gangs(mode: str) -> Gangs:
    if mode == "one":
        gang = FakeGang(CPU)

        return Gangs(root=gang, dp=gang, rdp=gang, sdp=gang, tp=gang, pp=gang)

    gangs = create_parallel_gangs(ProcessGroupGang.create_default_process_group(CPU))

    if mode == "ddp":
        return gangs

    return create_fsdp_gangs(gangs, NUM_PARTS if mode == "hybrid" else None)


def wrap(model: Module, mode: str, gangs: Gangs) -> Module:
    if mode == "one":
        return model

    if mode == "ddp":
        return to_ddp(model, gangs)

    return to_fsdp(
        model,
        gangs,
        shard,
        version="v2",
    )


def make_episode(
    family: str, step: int, number: int, num_inner_steps: int, dtype: torch.dtype
) -> Episode:
    batches: list[SpeechBatch] = []

    for k in range(num_inner_steps + 1):
        seed = ((step * 100 + number) * 10 + k) * 10
        generator = torch.Generator().manual_seed(seed)
        waveforms = 0.1 * torch.randn(NUM_PARTS, 2, 12_000, generator=generator)
        audio = SequenceBatch(waveforms.to(dtype), None, example={"seed": seed})

        if family == "hubert":
            batches.append(LabelledBatch(audio, make_labels(waveforms.shape, seed=seed)))
        else:
            batches.append(audio)

    return Episode("source", batches)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(
    mode: str, gangs: Gangs, dtype: torch.dtype, num_steps: int, case: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    family, inner_steps, episodes, outer_weights, *bad = case.split("-")
    num_inner_steps, num_episodes = int(inner_steps), int(episodes)

    torch.manual_seed(0)

    module = make_micro_model(family).to(dtype)
    module.train()

    family_criterion = make_criterion(module)
    criterion = PartsCriterion(
        family_criterion,
        range(NUM_PARTS) if gangs.sdp.size == 1 else range(gangs.sdp.rank, gangs.sdp.rank + 1),
    )
    model = wrap(module, mode, gangs)
    replica = create_replica(model)

    # A large epsilon: AdamW turns rounding noise in entries that are nearly zero into whole steps.
    base = torch.optim.AdamW(model.parameters(), lr=2e-3, eps=1e-3)
    optimizer = EquilibriumOptimizer(
        base,
        num_inner_steps=num_inner_steps,
        inner_lr=0.1,
        outer_weights=outer_weights,  # type: ignore[arg-type]
        buffers=module.buffers(),
        replica=replica,
    )
    episode_loss = EpisodeLoss(model, module, criterion, optimizer, replica=replica)
    facade = get_data_parallel_facade(model)

    for step in range(1, num_steps + 1):
        family_criterion.set_step_nr(step)
        counter = CollectiveCounter()

        with counter:
            numbers = range(gangs.rdp.rank, num_episodes, gangs.rdp.size)

            for number in numbers:
                episode = make_episode(family, step, number, num_inner_steps, dtype)

                if bad and (step, number) == (2, 1):
                    episode.batches[num_inner_steps // 2].seqs[1] = torch.nan

                try:
                    loss = episode_loss(episode).loss
                except NonFiniteError:
                    loss = episode_loss.nothing(episode)

                (loss / len(numbers)).backward()

            # torch 2.9 takes the norm of sharded float64 gradients in less than float64.
            facade.clip_grad_norm(1.0 if dtype == torch.float32 else None)
            optimizer.step()
            optimizer.zero_grad()

    snapshot = optimizer._snapshot
    num_bytes = 0 if snapshot is None else sum(t.nbytes for t in snapshot._copies or ())

    params = {
        name.removeprefix("module."): whole(p.detach()).clone()
        for name, p in model.named_parameters()
    }

    return params, {"collectives": counter.counts, "snapshot_bytes": num_bytes}


def main(mode: str, dtype_name: str, output_dir: Path, num_steps: int, cases: list[str]) -> None:
    torch.set_num_threads(1)

    dtype = getattr(torch, dtype_name)

    if dtype == torch.float64:
        # The host computes parts in float32 whatever the model is in.
        Tensor.float = Tensor.double  # type: ignore[method-assign]

    gangs = make_gangs(mode)
    facts = {}

    for case in cases:
        params, facts[case] = train(mode, gangs, dtype, num_steps, case)

        if gangs.root.rank == 0:
            torch.save(params, output_dir / f"{mode}-{case}.pt")

    if gangs.root.rank == 0:
        (output_dir / f"{mode}.json").write_text(json.dumps(facts))

    # Or who is late to leave finds the others gone.
    gangs.root.barrier()
    gangs.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
