"""How much the loss of each group of speakers (a language, a source) weighs: CTC-DRO, group DRO, or all alike.

CTC-DRO: Bartelds et al., arXiv 2502.01777. Group DRO: Sagawa et al., arXiv 1911.08731.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from fairseq2.utils.validation import Validatable, ValidationResult
from torch import Tensor

from eqssl_speech.error import InputError

AllReduce = Callable[[Tensor], None]
"""Sums a float64 vector on the CPU, in place, over all replicas; every one of them gets the same bits."""

_LEAST_WEIGHT: Final = 1e-10
"""Added to each weight before they are made to sum to 1, so that no group is lost for good."""


@dataclass(kw_only=True)
class GroupWeightingSection(Validatable):
    """How the losses of the groups are weighed against one another."""

    method: Literal["average", "ctc_dro"] = "average"
    """``average``: all groups alike. ``ctc_dro``: groups of a high loss weigh more (arXiv 2502.01777); it asks for
    batches of one group that hold the same seconds of audio each."""

    step_size: float = 1e-4
    """eta_q, the step size of the weights, greater than 0. The paper chose from 1e-3 and 1e-4 for batches of 50 s; as
    the loss of a batch is a sum, batches of half the audio want twice the step."""

    smoothing: float | None = 0.5
    """alpha, greater than 0; the paper chose from 0.1, 0.5 and 1. The smaller, the more even the weights that a
    difference of losses leads to. ``null`` is group DRO, which ends with all weight on the highest loss."""

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = ValidationResult()

        for name in ("step_size", "smoothing"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                result.add_error(
                    f"`{name}` must be greater than 0 and finite, but is {value} instead."
                )

        return result


@final
class GroupWeights:
    """The weights q_g >= 0 of the groups, which sum to 1 and start equal.

    With ``ctc_dro`` they maximise ``sum_g L_g log(q_g + alpha)`` over the simplex (arXiv 2502.01777, equation 10) by
    exponentiated gradient ascent, while the model minimises ``sum_g q_g L_g``:

        q_g <- q_g exp(eta_q L_g / (q_g + alpha)) / Z

    Here L_g is the **sum** of the utterances' losses in a batch of group g, not their mean, averaged over the group's
    batches since the last update; an update waits until every group has been seen (Algorithm 1). For constant losses
    the weights settle where ``L_g / (q_g + alpha)`` is the same for all groups of a weight above 0, that is

        q_g = L_g (1 + n alpha) / (L_1 + .. + L_n) - alpha    over these n groups

    (the stationary point of equation 14, with its multiplier solved for). Group DRO is the limit of large alpha at a
    constant ``eta_q / alpha``. At a constant eta_q the weights of large alpha hardly move: plain averaging.
    """

    def __init__(
        self,
        groups: Sequence[str],
        section: GroupWeightingSection,
        all_reduce: AllReduce | None = None,
    ) -> None:
        """
        :param groups: The names of the groups, at least one, in any order that is the same in all replicas.
        :param section: The method and its settings.
        :param all_reduce: Sums over replicas; ``None`` where there is one.
        """
        self._groups = {name: index for index, name in enumerate(groups)}
        self._section = section
        self._all_reduce = all_reduce

        num_groups = len(self._groups)

        self._weights = torch.full((num_groups,), 1.0 / num_groups, dtype=torch.float64)

        # Since the last update: the sum of the batches' losses, and the number of batches, of each group.
        self._seen = torch.zeros((2, num_groups), dtype=torch.float64)

        self._num_updates = 0

    def observe(self, losses: Sequence[tuple[str, float | Tensor | None]]) -> None:
        """Take in the losses of batches, and update the weights if every group has been seen since the last update.

        It communicates (not with ``average``): all replicas must call it equally often, with any number of batches.

        :param losses: Of each batch of this replica its group and the sum of the losses of its utterances, in nats.
            ``None`` or a number that is not finite says that the batch has no loss to speak of; it is then not counted.
        """
        indices = [self._index(group) for group, _ in losses]

        if self._section.method == "average":
            return

        seen = torch.zeros_like(self._seen)

        for index, (_, loss_sum) in zip(indices, losses):
            value = math.nan if loss_sum is None else float(loss_sum)
            if math.isfinite(value):
                seen[0, index] += value
                seen[1, index] += 1.0

        if self._all_reduce is not None:
            # (2, G) -> (2 x G)
            self._all_reduce(seen.view(-1))

        self._seen += seen

        if bool((self._seen[1] > 0.0).all()):
            self._update(self._seen[0] / self._seen[1])

    def scale(self, group: str) -> float:
        """Return the number by which the loss of a batch of a group is multiplied, ``G q_g`` (Algorithm 1).

        Its mean over the groups is 1, so that a learning rate serves all methods.
        """
        return len(self._groups) * self._weights[self._index(group)].item()

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each group. *Range:* [0, 1]."""
        return dict(zip(self._groups, self._weights.tolist()))

    @property
    def num_updates(self) -> int:
        """How often the weights were updated."""
        return self._num_updates

    def state_dict(self) -> dict[str, object]:
        """Return what a run needs to go on; the same in all replicas."""
        return {
            "groups": list(self._groups),
            "weights": self._weights.clone(),
            "seen": self._seen.clone(),
            "num_updates": self._num_updates,
        }

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Go on from a state; the groups may stand in another order.

        :raises InputError: If it is of other groups.
        """
        groups = state_dict["groups"]
        weights, seen = state_dict["weights"], state_dict["seen"]
        num_updates = state_dict["num_updates"]

        assert isinstance(groups, list)
        assert isinstance(weights, Tensor)
        assert isinstance(seen, Tensor)
        assert isinstance(num_updates, int)

        if set(groups) != set(self._groups):
            raise InputError(
                f"the checkpoint holds weights of the groups {', '.join(sorted(groups))}, but this run has "
                f"{', '.join(sorted(self._groups))} instead; resume with the same sources, or start a new run."
            )

        order = [groups.index(name) for name in self._groups]

        self._weights = weights[order].clone()
        self._seen = seen[:, order].clone()
        self._num_updates = num_updates

    def _update(self, losses: Tensor) -> None:
        smoothing = self._section.smoothing

        if smoothing is not None:
            losses = losses / (self._weights + smoothing)

        weights = torch.softmax(self._weights.log() + self._section.step_size * losses, dim=0)

        self._weights = (weights + _LEAST_WEIGHT) / (weights + _LEAST_WEIGHT).sum()
        self._seen = torch.zeros_like(self._seen)
        self._num_updates += 1

    def _index(self, group: str) -> int:
        try:
            return self._groups[group]
        except KeyError:
            raise ValueError(
                f"`group` must be one of {', '.join(self._groups)}, but is `{group}` instead."
            ) from None
