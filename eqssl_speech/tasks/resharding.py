"""Checkpoints of other ranks than those that load them: of more, of fewer, or of ranks that share a model otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, final

import torch
from fairseq2.gang import Gangs
from fairseq2.logging import log
from fairseq2.typing import Stateful
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from eqssl_speech.data.readers import BATCH_NUM_SAMPLES, NUM_UTTERANCES
from eqssl_speech.host import get_metric_bag
from eqssl_speech.models.checksums import DamagedFileError
from eqssl_speech.tasks.checkpoint_files import StateFileLoader

_SHARD: Final = "pp_00/tp_00/sdp_"


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
        """Return the layout of the ranks that wrote a checkpoint.

        :raises DamagedFileError: If what one of them has written is missing.
        """
        return RankLayout(
            _count_ranks(step_dir, "trainer/rank_", "data_reader/dp_"),
            _count_ranks(step_dir, f"model/{_SHARD}", f"optimizer/{_SHARD}"),
        )

    @staticmethod
    def of_gangs(gangs: Gangs) -> RankLayout:
        """Return the layout of the ranks of a run."""
        return RankLayout(gangs.root.size, gangs.sdp.size)

    def __str__(self) -> str:
        num_replicas = self.num_ranks // self.num_shards

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
        """Load this rank's part of the parameters, and the buffers, which all ranks have whole."""
        shards = self._load_shards(step_nr, "model")
        present = cast(dict[str, Tensor], model.state_dict())

        state = {}

        for name, first in shards[0].items():
            part = self._take_part([shard[name] for shard in shards]) if first.dim() > 0 else first

            # What fits neither way, the model refuses.
            is_part = name in present and part.shape == present[name].shape
            state[name] = part if is_part else first

        model.load_state_dict(state)

    def load_optimizer_state(self, step_nr: int, optimizer: Stateful) -> None:
        """Load this rank's part of the optimizer's state."""
        shards = self._load_shards(step_nr, "optimizer")
        state = shards[0]

        groups = cast(Optimizer, optimizer).param_groups

        for number, parameter in enumerate(p for group in groups for p in group["params"]):
            for name, value in state["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.dim() > 0:
                    if value.shape != parameter.shape:
                        raise DamagedFileError(
                            f"{self._step_dir(step_nr) / 'optimizer'}: holds the state of another model, or of one "
                            "that was sharded in a way that cannot be read"
                        )

                    values = [shard["state"][number][name] for shard in shards]
                    state["state"][number][name] = self._take_moment(values, parameter)

        optimizer.load_state_dict(state)

    def load_data_reader_state(self, step_nr: int, data_reader: Stateful) -> None:
        """Load where the sources are in their passes, and say what is not to the last bit as it would have been."""
        present = cast(dict[str, Any], data_reader.state_dict())

        # All ranks have the same.
        state = self._load(step_nr, "data_reader/dp_00.pt")

        data_reader.load_state_dict(state)

        before, now = self._layout(step_nr), RankLayout.of_gangs(self._gangs)

        if before != now:
            log.warning(
                "Step {} was written by {}; {} go on with the same states and the same schedule of sources, but not to "
                "the last bit as those would have: {}.",
                step_nr,
                before,
                now,
                _describe_changes(state, present),
            )
        elif state.get(NUM_UTTERANCES, present[NUM_UTTERANCES]) != present[NUM_UTTERANCES]:
            log.warning(
                "There are {} utterances to train on, and there were {} when step {} was written, so that the run does "
                "not go on to the last bit as it would have: the sources are passed over in another order.",
                sum(present[NUM_UTTERANCES]),
                sum(state[NUM_UTTERANCES]),
                step_nr,
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
            self._load(step_nr, f"{kind}/{_SHARD}{shard:02d}.pt") for shard in range(num_shards)
        ]

    def _take_part(self, shards: Sequence[Tensor]) -> Tensor:
        """Put a parameter together and take this rank's part of it."""
        whole = torch.cat(list(shards))

        # As torch.chunk() does; the last ranks may have less, or nothing.
        size = -(-whole.size(0) // self._gangs.sdp.size)

        part = whole[self._gangs.sdp.rank * size :][:size]

        # A view would keep the whole in memory.
        return whole if part.shape == whole.shape else part.clone()

    def _take_moment(self, values: Sequence[Tensor], parameter: Tensor) -> Tensor:
        if isinstance(values[0], DTensor):
            values = [v.to_local() if isinstance(v, DTensor) else v for v in values]
        else:
            values = values[:1]

        part = self._take_part(values)

        if not isinstance(parameter, DTensor):
            return part

        return DTensor.from_local(
            part.to(parameter.device),
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )


def _count_ranks(step_dir: Path, *prefixes: str) -> int:
    files = [sorted(step_dir.glob(f"{prefix}*.pt")) for prefix in prefixes]
    num_ranks = max(1, *(len(found) for found in files))

    for prefix, found in zip(prefixes, files, strict=True):
        expected = [step_dir / f"{prefix}{rank:02d}.pt" for rank in range(num_ranks)]

        if missing := sorted(set(expected) - set(found)):
            raise DamagedFileError(f"{missing[0]}: is missing")

    return num_ranks


def _describe_changes(before: dict[str, Any], present: dict[str, Any]) -> str:
    what = "sums over ranks are rounded in another order"

    if BATCH_NUM_SAMPLES not in before:
        return f"{what}, and if batches have another size than they had (an older version did not say), they differ"

    was, now = before[BATCH_NUM_SAMPLES], present[BATCH_NUM_SAMPLES]

    if was != now:
        what = (
            f"a batch has {now} samples instead of {was}, so that utterances are put together in another way, from the "
            f"same part of each pass on, and {what}"
        )

    was, now = sum(before[NUM_UTTERANCES]), sum(present[NUM_UTTERANCES])

    if was != now:
        what = f"{now} utterances fit into a batch of that size, and {was} did before; {what}"

    return what
