"""The running values of one data source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar, final, get_args

import torch
from fairseq2.metrics import Mean, MetricBag, Sum
from torch import Tensor
from torcheval.metrics import Metric
from typing_extensions import Self, override

from eqssl_speech.criteria.base import CriterionOutput

_NATS_PER_BIT: Final = math.log(2.0)

T = TypeVar("T")


@final
class RunningMean(Mean):
    """A mean that is 0 where there is nothing to take it of, which torcheval's is too, but not without a warning: a
    source need not have had its turn since the last reset."""

    weighted_sum: Tensor
    weights: Tensor

    @override
    @torch.inference_mode()
    def compute(self) -> Tensor:
        return self.weighted_sum / self.weights if self.weights else torch.zeros_like(self.weights)


class _Counts(Metric[T]):
    """How often each of some codes came up since the last reset."""

    def __init__(self, num_codes: int, device: torch.device | None = None) -> None:
        super().__init__(device=device)

        self._add_state("counts", torch.zeros(num_codes, device=self.device))

        self.counts: Tensor

    @override
    @torch.inference_mode()
    def update(self, counts: Tensor) -> Self:
        """:param counts: How often each came up. *Shape:* ``(G x V)``."""
        self.counts = self.counts + counts.detach().to(self.device)

        return self

    @override
    @torch.inference_mode()
    def merge_state(self, metrics: Iterable[Self]) -> Self:
        for metric in metrics:
            self.update(metric.counts)

        return self


@final
class CodeShare(_Counts[Tensor]):
    """The share of codes that were chosen at least once since the last reset. *Range:* [0, 1]."""

    @override
    @torch.inference_mode()
    def compute(self) -> Tensor:
        return (self.counts > 0.5).float().mean()


@final
class LabelCounts(_Counts[dict[str, float]]):
    """How often each label was a target since the last reset, and so what a model knows that knows nothing else."""

    def __init__(self, num_labels: Sequence[int], device: torch.device | None = None) -> None:
        """:param num_labels: How many different labels each label set has."""
        super().__init__(sum(num_labels), device)

        self._num_labels = list(num_labels)

    @override
    @torch.inference_mode()
    def compute(self) -> dict[str, float]:
        """Return ``label_entropy``, in bits, summed over label sets: the least loss of a model that predicts the same
        for each frame; and ``majority_share``, the mean over label sets of the share of the most frequent label: the
        accuracy of such a model. Nothing where no label was counted."""
        if not bool(self.counts.sum() > 0):
            return {}

        shares = [c / c.sum() for c in self.counts.double().split(self._num_labels)]

        entropy = sum(float(torch.special.entr(s).sum()) for s in shares) / _NATS_PER_BIT

        return {
            "label_entropy": entropy,
            "majority_share": sum(float(s.max()) for s in shares) / len(shares),
        }


LostReason: TypeAlias = Literal["non_finite", "exploded", "dead"]
"""Why an episode contributed nothing: a number was not finite, the loss rose too far over the inner loop, no recording
of the source could be read."""


@final
class LostEpisodes(Metric[dict[str, int]]):
    """How many episodes of a source contributed nothing, by the reason, and how often its ``inner_lr`` was lowered.

    Whole numbers that never lie on a device, so that nothing waits for it to know them.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device=device)

        for name in _LOST_STATES:
            self._add_state(name, 0)

        self.num_lowered: int

    @override
    def update(self, reason: LostReason) -> Self:
        """Count an episode."""
        setattr(self, reason, getattr(self, reason) + 1)

        return self

    def lower(self) -> None:
        """Count that ``inner_lr`` was lowered; the same on all ranks."""
        self.num_lowered += 1

    @override
    def compute(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _LOST_STATES}

    @override
    def merge_state(self, metrics: Iterable[Self]) -> Self:
        for metric in metrics:
            for reason in get_args(LostReason):
                setattr(self, reason, getattr(self, reason) + getattr(metric, reason))

        return self

    @override
    def reset(self) -> Self:
        """Forget the counts, but not what all ranks share."""
        num_lowered = self.num_lowered

        super().reset()

        self.num_lowered = num_lowered

        return self

    @override
    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        if "weighted_sum" in state_dict:
            # Of an older version, which counted those that are not finite.
            state_dict = dict.fromkeys(_LOST_STATES, 0) | {
                "non_finite": int(state_dict["weighted_sum"])
            }

        super().load_state_dict(state_dict, strict)


_LOST_STATES: Final = (*get_args(LostReason), "num_lowered")


@final
class SourceMetrics:
    """Adds, updates and reads the metrics of one data source in a metric bag.

    In a bag the names carry the source (``plain_loss@ru-festvox``); a log has one line per source instead.
    """

    def __init__(self, metric_bag: MetricBag, source_name: str) -> None:
        """
        :param metric_bag: Where :meth:`add` has put, or will put, the metrics.
        :param source_name: The data source.
        """
        self._bag = metric_bag
        self._source_name = source_name

    def add(self, num_codes: int, num_labels: Sequence[int] = ()) -> None:
        """Register the metrics.

        :param num_codes: The number of codes over all codebooks or label sets.
        :param num_labels: How many different labels each label set has, where targets have labels.
        """
        for name in _MEANS:
            self._bag.add(self._key(name), RunningMean())

        for name in _SUMS:
            self._bag.add(self._key(name), Sum())

        self._bag.add(self._key(_LOST), LostEpisodes())

        self._bag.add(self._key("code_share"), CodeShare(num_codes))

        if num_labels:
            self._bag.add(self._key(_LABELS), LabelCounts(num_labels))

    @torch.inference_mode()
    def update_plain(self, output: CriterionOutput) -> None:
        """Count a batch evaluated at theta: its loss, accuracy and use of codes."""
        n = output.num_targets

        self._mean("plain_loss").update(output.main_loss / _NATS_PER_BIT, weight=n)
        self._mean("accuracy").update(output.num_correct / n, weight=n)
        self._mean("code_perplexity").update(output.code_perplexity, weight=n)
        self._mean("prob_perplexity").update(output.prob_perplexity, weight=n)
        self._bag.get(self._key("code_share"), CodeShare).update(output.code_counts)

        if output.label_counts is not None:
            self._bag.get(self._key(_LABELS), LabelCounts).update(output.label_counts)

    @torch.inference_mode()
    def update_adapted(self, output: CriterionOutput) -> None:
        """Count a batch evaluated at phi^K."""
        self._mean("adapted_loss").update(
            output.main_loss / _NATS_PER_BIT, weight=output.num_targets
        )

    @torch.inference_mode()
    def update_audio(self, num_utterances: int, duration_s: float) -> None:
        """Count audio that was trained on."""
        self._bag.get(self._key("total_utterances"), Sum).update(num_utterances)
        self._bag.get(self._key("total_audio_seconds"), Sum).update(duration_s)

    @property
    def lost(self) -> LostEpisodes:
        """The episodes that contributed nothing."""
        return self._bag.get(self._key(_LOST), LostEpisodes)

    def _mean(self, name: str) -> RunningMean:
        return self._bag.get(self._key(name), RunningMean)

    def _key(self, name: str) -> str:
        # The trainer keeps metrics over resets whose names begin so.
        prefix, name = ("total_", name[6:]) if name.startswith("total_") else ("", name)

        return f"{prefix}{name}@{self._source_name}"


_MEANS: Final = (
    "plain_loss",
    "adapted_loss",
    "accuracy",
    "code_perplexity",
    "prob_perplexity",
)

_SUMS: Final = ("total_utterances", "total_audio_seconds")

_LOST: Final = "total_non_finite"
"""So called since there was but one reason; checkpoints know the name."""

_LABELS: Final = "labels"


def split_by_source(
    values: MutableMapping[str, object], source_names: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Take the values of the sources out of the values of a bag.

    :param values: The computed values; the keys of sources are removed.
    :param source_names: The data sources.
    :returns: Per source its values under their plain names, with ``adaptation_gain``; a source without a batch since
        the last reset has only its totals. ``num_lowered`` and counts of lost episodes are there where they are not 0.
    """
    result = {}

    for source_name in source_names:
        lost = values.pop(f"{_LOST}@{source_name}", {})
        of_labels = values.pop(f"{_LABELS}@{source_name}", {})

        mine = {
            key.removesuffix(f"@{source_name}"): _to_float(values.pop(key))
            for key in list(values)
            if key.endswith(f"@{source_name}")
        }

        row = {k.removeprefix("total_"): v for k, v in mine.items() if k.startswith("total_")}

        assert isinstance(lost, dict)
        assert isinstance(of_labels, dict)

        row |= {name: float(count) for name, count in lost.items() if count > 0}

        if mine.get("code_perplexity", 0.0) != 0.0:
            row |= {k: v for k, v in mine.items() if not k.startswith("total_")} | of_labels
            # A mean of nothing computes to zero, which no loss is.
            if row["adapted_loss"] == 0.0:
                del row["adapted_loss"]
            else:
                row["adaptation_gain"] = row["plain_loss"] - row["adapted_loss"]

        result[source_name] = row

    return result


def macro_average(rows: Mapping[str, Mapping[str, float]], name: str) -> float | None:
    """Return the unweighted mean of a value over the sources that have it."""
    values = [row[name] for row in rows.values() if name in row]

    return sum(values) / len(values) if values else None


def _to_float(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
