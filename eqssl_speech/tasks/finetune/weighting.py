"""How the losses of the sources are put together, and how that is remembered over a resume."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Final, final

import torch
from fairseq2.metrics import MetricBag
from torch import Tensor
from torcheval.metrics import Metric
from typing_extensions import Self, override

from eqssl_speech.criteria.ctc import CtcOutput
from eqssl_speech.criteria.group_weights import GroupWeights

_STATE: Final = "total_group_weights"
"""Metrics of this prefix live as long as the run, and the host keeps them in its checkpoints."""


@final
class GroupWeightsState(Metric[Tensor]):
    """The state of the group weights as a metric, which is what the host saves of a unit."""

    def __init__(self, num_groups: int, device: torch.device | None = None) -> None:
        """:param num_groups: The number of sources."""
        super().__init__(device=device)

        # The weights, the losses and the batches seen since the last update; and the updates.
        self._add_state("rows", torch.zeros((3, num_groups), dtype=torch.float64))
        self._add_state("num_updates", torch.tensor(-1))

        self.rows: Tensor
        self.num_updates: Tensor

    @override
    def update(self, weights: GroupWeights) -> Self:
        state = weights.state_dict()

        row, seen = state["weights"], state["seen"]

        assert isinstance(row, Tensor)
        assert isinstance(seen, Tensor)

        self.rows = torch.cat([row[None], seen]).to(self.device)
        self.num_updates = torch.tensor(state["num_updates"], device=self.device)

        return self

    def restore(self, weights: GroupWeights, groups: Sequence[str]) -> None:
        """Give the weights the state of this metric, if it has any."""
        if int(self.num_updates) < 0:
            return

        rows = self.rows.cpu()

        weights.load_state_dict(
            {
                "groups": list(groups),
                "weights": rows[0],
                "seen": rows[1:],
                "num_updates": int(self.num_updates),
            }
        )

    @override
    def compute(self) -> Tensor:
        return self.rows[0]

    @override
    def merge_state(self, metrics: Iterable[Self]) -> Self:
        # The same on all ranks.
        return self

    @override
    def reset(self) -> Self:
        # Nothing that a rank has counted.
        return self


@final
class SourceWeighting:
    """Makes the loss that is minimised of the loss of a batch."""

    def __init__(
        self,
        weights: GroupWeights,
        groups: Sequence[str],
        labels_per_batch: float | None,
        num_batches: int,
    ) -> None:
        """
        :param weights: The weights of the sources.
        :param groups: The names of the sources, in the order of the weights.
        :param labels_per_batch: If given, the summed loss of each batch is divided by this, the same for all sources;
            otherwise the loss of a batch is the mean over its own labels.
        :param num_batches: The batches of an update on this rank. The weights change between updates only, so that the
            same batches make the same update on any number of ranks.
        """
        self._weights = weights
        self._groups = groups
        self._labels_per_batch = labels_per_batch
        self._num_batches = num_batches
        self._observed: list[tuple[str, Tensor]] = []

    def add_metrics(self, metric_bag: MetricBag) -> None:
        """Register what a checkpoint has to keep."""
        metric_bag.add(_STATE, GroupWeightsState(len(self._groups)))

    def begin_update(self) -> None:
        """Forget what an update that was broken off has left behind."""
        self._observed = []

    def __call__(self, source_name: str, output: CtcOutput, metric_bag: MetricBag) -> Tensor:
        """Return the loss to minimise; communicates at the last batch of an update, if the weights follow the losses.

        :param source_name: The source of the batch.
        :param output: The loss of the batch.
        :param metric_bag: Holds the state of the weights.
        """
        if self._labels_per_batch is None:
            return output.loss

        state = metric_bag.get(_STATE, GroupWeightsState)

        state.restore(self._weights, self._groups)

        loss = output.loss_sum * (self._weights.scale(source_name) / self._labels_per_batch)

        self._observed.append((source_name, output.loss_sum.detach()))

        if len(self._observed) == self._num_batches:
            self._weights.observe(self._observed)

            state.update(self._weights)

        return loss

    def describe(self, source_name: str) -> dict[str, float]:
        """Return what the log says of a source."""
        if self._labels_per_batch is None:
            return {}

        return {"group_weight": self._weights.weights[source_name]}

    def remove_values(self, values: MutableMapping[str, object]) -> None:
        """Remove the state from the values of a metric bag."""
        del values[_STATE]
