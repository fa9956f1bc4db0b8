"""Checkpoints of other ranks than those that load them: of more, of fewer, or of ranks that share a model otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import torch
from fairseq2.gang import Gangs
from fairseq2.logging import log
from fairseq2.typing import Stateful
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from eqssl_speech.data.readers import BATCH_NUM_SAMPLES
from eqssl_speech.host import get_metric_bag
from eqssl_speech.models.checkpoint import merge_shards
from eqssl_speech.tasks.checkpoint_files import StateFileLoader


@final
@dataclass(frozen=True)
class RankLayout:
    """How many ranks there are, and what each has of the model."""

    num_ranks: int
    """The ranks of the run."""

    num_shards: int
    """The ranks that share one replica of the model's parameters."""

    @staticmethod
    def of_checkpoint(step_dir: Path) -> RankLayout:
        """Return the layout of the ranks that wrote a checkpoint."""
        return RankLayout(
            len(list((step_dir / "trainer").glob("rank_*.pt"))),
            len(list((step_dir / "model/pp_00/tp_00").glob("sdp_*.pt"))),
        )

    @staticmethod
    def of_gangs(gangs: Gangs) -> RankLayout:
        """Return the layout of the ranks of a run."""
        return RankLayout(gangs.root.size, gangs.sdp.size)

    def __str__(self) -> str:
        num_replicas = self.num_ranks // max(self.num_shards, 1)

        return f"{self.num_ranks} process(es) ({num_replicas} replica(s) of {self.num_shards})"


@final
class ReshardingLoader:
    """Loads the states of a run into ranks of another layout than those that wrote them.

    Every rank reads all shards of the model and of the optimizer's state, one kind after the other, puts them together
    in the memory of the host and takes its part.
    """

    def __init__(self, directory: Path, gangs: Gangs) -> None:
        """
        :param directory: Holds a directory per checkpoint.
        :param gangs: The ranks of the run.
        """
        self._directory = directory
        self._gangs = gangs
        self._loader = StateFileLoader()

    def load_trainer_state(self, step_nr: int, trainer: Stateful) -> None:
        """Load counters, schedule and metrics; of ranks that are no longer there, one that is takes over the metrics.

        :raises DamagedFileError: If a file is missing, damaged, or holds more than data; so do the others.
        """
        gang, num_ranks = self._gangs.root, self._layout(step_nr).num_ranks
        bag = get_metric_bag(trainer)

        if gang.rank >= num_ranks:
            state = self._load(step_nr, "trainer/rank_00.pt")
            state["_rng_bag"] = trainer.state_dict()["_rng_bag"]
            trainer.load_state_dict(state)

            # Rank 0 has counted what there is to count.
            bag.reset_metrics()

            return

        mine, *others = [
            self._load(step_nr, f"trainer/rank_{rank:02d}.pt")
            for rank in range(gang.rank, num_ranks, gang.size)
        ]

        trainer.load_state_dict(mine)

        for name, metric in bag.metrics.items():
            for state in others:
                other = deepcopy(metric)
                other.load_state_dict(state["_metric_bag"][name])
                metric.merge_state([other])

    def load_model_state(self, step_nr: int, model: Stateful) -> None:
        """Load this rank's part of the parameters, and the buffers."""
        merged = merge_shards(self._load_shards(step_nr, "model"))
        present = cast(dict[str, Tensor], model.state_dict())

        model.load_state_dict(
            {n: self._take_part(t, present[n]) if n in present else t for n, t in merged.items()}
        )

    def load_optimizer_state(self, step_nr: int, optimizer: Stateful) -> None:
        """Load this rank's part of the optimizer's state."""
        first, *others = self._load_shards(step_nr, "optimizer")

        groups = cast(Optimizer, optimizer).param_groups

        for number, parameter in enumerate(p for group in groups for p in group["params"]):
            for name, value in first["state"].get(number, {}).items():
                values = [value, *(shard["state"][number][name] for shard in others)]

                first["state"][number][name] = _fit(values, parameter)

        optimizer.load_state_dict(first)

    def load_data_reader_state(self, step_nr: int, data_reader: Stateful) -> None:
        """Load where the sources are in their passes, and say what is not to the last bit as it would have been."""
        present = data_reader.state_dict()[BATCH_NUM_SAMPLES]

        # All ranks have the same.
        state = self._load(step_nr, "data_reader/dp_00.pt")

        data_reader.load_state_dict(state)

        what = "sums over ranks are rounded in another order"

        before = state.get(BATCH_NUM_SAMPLES, present)
        if before != present:
            what = (
                f"a batch has {present} samples instead of {before}, so that utterances are put together in another "
                f"way, from the same part of each pass on, and {what}"
            )

        log.warning(
            "Step {} was written by {}; {} go on with the same states and the same schedule of sources, but not to the "
            "last bit as those would have: {}.",
            step_nr,
            self._layout(step_nr),
            RankLayout.of_gangs(self._gangs),
            what,
        )

    def _layout(self, step_nr: int) -> RankLayout:
        return RankLayout.of_checkpoint(self._step_dir(step_nr))

    def _step_dir(self, step_nr: int) -> Path:
        return self._directory / f"step_{step_nr}"

    def _load(self, step_nr: int, name: str) -> dict[str, Any]:
        return self._loader.load(self._step_dir(step_nr) / name)

    def _load_shards(self, step_nr: int, kind: str) -> list[dict[str, Any]]:
        num_shards = self._layout(step_nr).num_shards

        return [
            self._load(step_nr, f"{kind}/pp_00/tp_00/sdp_{shard:02d}.pt")
            for shard in range(num_shards)
        ]

    def _take_part(self, whole: Tensor, present: Tensor) -> Tensor:
        """
        :param whole: A parameter or buffer.
        :param present: What this rank has of it.
        """
        if present.shape == whole.shape:
            return whole

        # As torch.chunk() does; the last ranks may have less, or nothing.
        size = -(-whole.size(0) // self._gangs.sdp.size)

        return whole[self._gangs.sdp.rank * size :][:size]


def _fit(values: Sequence[Any], parameter: Tensor) -> Any:
    """Make a parameter's value in the state of an optimizer of the values of all shards."""
    value = values[0]

    if isinstance(value, DTensor):
        value = torch.cat([v.to_local() for v in values])

    if not isinstance(parameter, DTensor):
        return value

    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value

    return distribute_tensor(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        src_data_rank=None,  # All ranks have read the same.
    )
