"""What is done about episodes that cannot be trained on: they are counted per source, and a policy acts on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, final

import torch
from fairseq2.logging import log
from fairseq2.metrics import MetricBag
from torch import Tensor

from eqssl_speech.criteria.metrics import LostReason, SourceMetrics
from eqssl_speech.equilibrium import EpisodeError, LossRiseError, NonFiniteError, VoidEpisodeError
from eqssl_speech.error import InputError
from eqssl_speech.tasks.errors import TrainingDivergedError
from eqssl_speech.tasks.repetition import is_worth_a_line

DivergencePolicy: TypeAlias = Literal["skip", "stop", "lower_inner_lr"]

_FACTOR: Final = 0.5
"""By which ``inner_lr`` is lowered."""

_MAX_NUM_LOWERED: Final = 10
"""How often; if a thousandth does not help, nothing of the kind does."""

_REMEDY: Final = (
    "set `equilibrium.on_divergence` to 'lower_inner_lr' and run the same command again to go on from the last "
    "checkpoint, or start a new run with a lower `equilibrium.inner_lr` or learning rate"
)


@final
class LostEpisodeWatch:
    """Counts lost episodes, and skips them, stops the run or lowers the ``inner_lr`` of their source.

    What lasts lies in the metrics of the sources, which the host keeps in its checkpoints; a lowered ``inner_lr`` is
    the same on all ranks.
    """

    def __init__(
        self,
        source_names: Sequence[str],
        policy: DivergencePolicy = "skip",
        *,
        max_num_in_a_row: int = 10,
        maximum: Callable[[Tensor], None] | None = None,
    ) -> None:
        """
        :param source_names: The data sources (or ``mixed``).
        :param policy: What is done about numbers gone wrong; a source that cannot be read is always skipped.
        :param max_num_in_a_row: The run stops after so many episodes in a row with numbers gone wrong; those for which
            ``inner_lr`` is lowered are left out of the count.
        :param maximum: Puts the greatest of all ranks' numbers in the place of each, of a vector on the CPU; ``None``
            where there is one rank.
        """
        self._source_names = list(source_names)
        self._policy = policy
        self._max_num_in_a_row = max_num_in_a_row
        self._maximum = maximum

        self._num_in_a_row = 0
        self._num_lost: dict[str, int] = {}
        self._dead: set[str] = set()
        self._to_lower: set[str] = set()

        # As the published values of all ranks tell.
        self._published_dead: dict[str, float] = {}
        self._dead_everywhere: set[str] = set()

    def begin_step(self) -> None:
        """Forget what the step before, even one that was broken off, has left behind."""
        self._to_lower.clear()

    def inner_lr_scale(self, metrics: SourceMetrics) -> float:
        """Return by what the ``inner_lr`` of a source is multiplied. *Range:* [0, 1]."""
        return _scale(metrics.lost.num_lowered)

    def count_good(self, source_name: str) -> None:
        """Take note of an episode that could be trained on."""
        self._num_in_a_row = 0

        if source_name in self._dead:
            self._dead.discard(source_name)

            log.warning("Source {}: its recordings can be read again.", source_name)

    def count_lost(
        self,
        source_name: str,
        ex: EpisodeError,
        metrics: SourceMetrics,
        *,
        step_nr: int,
        inner_lr: float,
    ) -> None:
        """Count an episode that could not be trained on.

        :param source_name: Its source.
        :param ex: What was wrong with it.
        :param metrics: Those of the source.
        :param step_nr: The number of the outer step.
        :param inner_lr: The step size of its inner loop; 0 without inner steps.
        :raises TrainingDivergedError: If the run is to stop.
        """
        if isinstance(ex, VoidEpisodeError):
            self._count_dead(source_name, metrics)

            return

        assert isinstance(ex, (NonFiniteError, LossRiseError))

        reason: LostReason = "exploded" if isinstance(ex, LossRiseError) else "non_finite"

        metrics.lost.update(reason)

        what = _describe(source_name, ex, step_nr)

        if self._policy == "stop":
            raise TrainingDivergedError(f"{what}: {_REMEDY}.")

        # What went wrong at theta is not the inner steps' doing.
        can_lower = metrics.lost.num_lowered < _MAX_NUM_LOWERED and ex.inner_step > 0

        if self._policy == "lower_inner_lr" and can_lower and inner_lr > 0.0:
            self._to_lower.add(source_name)
        else:
            self._num_in_a_row += 1

        if self._num_in_a_row >= self._max_num_in_a_row:
            raise TrainingDivergedError(
                f"{self._num_in_a_row} episodes in a row came to nothing, as a loss or gradient was not finite or the "
                f"inner steps exploded; the last one: {what}: {_REMEDY}."
            )

        count = self._num_lost[source_name] = self._num_lost.get(source_name, 0) + 1

        if is_worth_a_line(count):
            log.warning(
                "{}; the episode contributes nothing ({} of the source so far).", what, count
            )

    def _count_dead(self, source_name: str, metrics: SourceMetrics) -> None:
        metrics.lost.update("dead")

        if source_name not in self._dead:
            self._dead.add(source_name)

            log.warning(
                "Source {}: no recording can be read any more; its episodes contribute nothing until one can. Mend the "
                "files, which `eqssl check` names; no restart is needed.",
                source_name,
            )

    def end_step(self, metric_bag: MetricBag, inner_lr: float, step_nr: int) -> None:
        """Lower ``inner_lr`` where any rank asks for it; if that is the policy, all ranks call this once a step.

        :param metric_bag: Holds the metrics of the sources.
        :param inner_lr: The step size of a source for which it was never lowered.
        :param step_nr: The number of the outer step.
        """
        if self._policy != "lower_inner_lr":
            return

        flags = torch.tensor([int(name in self._to_lower) for name in self._source_names])

        if self._maximum is not None:
            self._maximum(flags)

        for name, is_set in zip(self._source_names, flags.tolist()):
            if not is_set:
                continue

            lost = SourceMetrics(metric_bag, name).lost
            lost.lower()

            log.warning(
                "Source {}: `inner_lr` is {:.3g} from step {} on, {:.3g} of what is configured.",
                name,
                inner_lr * _scale(lost.num_lowered),
                step_nr + 1,
                _scale(lost.num_lowered),
            )

    def require_alive(self, rows: Mapping[str, Mapping[str, float]]) -> None:
        """Find out whether there is anything left to train on.

        :param rows: The values of the sources since they were last published, and their totals, of all ranks.
        :raises InputError: If no source could be read.
        """
        for name, row in rows.items():
            num_dead = row.get("dead", 0.0)

            if "plain_loss" in row:
                self._dead_everywhere.discard(name)
            elif num_dead > self._published_dead.get(name, 0.0):
                self._dead_everywhere.add(name)

            self._published_dead[name] = num_dead

        if len(self._dead_everywhere) == len(rows):
            raise InputError(
                "No recording of any source can be read any more; see that the corpus is there (`eqssl check`) and run "
                "the same command again to go on from the last checkpoint."
            )


def show_inner_lr(row: dict[str, float], inner_lr: float) -> None:
    """Put the lowered ``inner_lr`` of a source in the place of how often it was lowered.

    :param row: The values of the source.
    :param inner_lr: The step size of a source for which it was never lowered.
    """
    num_lowered = row.pop("num_lowered", None)
    if num_lowered is not None:
        row["inner_lr"] = inner_lr * _scale(num_lowered)


def _scale(num_lowered: float) -> float:
    return float(_FACTOR**num_lowered)


def _describe(source_name: str, ex: NonFiniteError | LossRiseError, step_nr: int) -> str:
    where = f"Source {source_name}: at inner step {ex.inner_step} of step {step_nr}"

    if isinstance(ex, NonFiniteError):
        return f"{where} the {ex.what} is not finite"

    return (
        f"{where} the loss has risen to {ex.loss:.4g} nats from {ex.first_loss:.4g} at theta, beyond "
        "`equilibrium.max_inner_loss_rise`"
    )
