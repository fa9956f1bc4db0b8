"""Says in words when pre-training has collapsed, from what validation measures per data source.

The three signs: the codebook shrinks until the contrastive task is trivial; the loss never leaves
chance; or theta becomes a point from which the inner steps fall into a good place without being
one itself (the hazard of training with outer weights ``last``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

CollapseKind: TypeAlias = Literal["codebook_collapse", "nothing_learned", "theta_let_go"]


@dataclass(frozen=True)
class CollapseThresholds:
    """When a `CollapseDetector` speaks."""

    max_accuracy: float = 0.98
    """The accuracy, 0 to 1, from which the codebook has collapsed if it also uses few codes."""

    min_code_share: float = 0.05
    """The share of codes used, 0 to 1, below which codes are few."""

    min_code_perplexity: float = 8.0
    """The code perplexity, summed over groups, below which codes are few if no share is given."""

    chance_eps: float = 0.05
    """The distance from chance, in bits, up to which the loss counts as pinned there."""

    num_observations: int = 3
    """The number of observations of a source in a row that must be pinned; at least 1."""

    num_grace_steps: int = 1000
    """The number of steps in which a loss at chance is no cause for concern; 0 or more."""

    let_go_margin: float = 0.1
    """How far above chance, in bits, the loss at theta must be to be let go; 0 or more."""

    def __post_init__(self) -> None:
        for name in ("max_accuracy", "min_code_share"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, but is {value} instead.")

        for name in ("min_code_perplexity", "chance_eps", "num_grace_steps", "let_go_margin"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"`{name}` must be 0 or greater, but is {value} instead.")

        if (number := self.num_observations) < 1:
            raise ValueError(f"`num_observations` must be 1 or greater, but is {number} instead.")


@dataclass(frozen=True)
class CollapseWarning:
    """What a `CollapseDetector` saw."""

    kind: CollapseKind

    source: str

    message: str
    """What is seen and what to try, in words."""


@final
class CollapseDetector:
    """Watches every data source for collapse; warns once per kind and source until it clears."""

    def __init__(self, thresholds: CollapseThresholds | None = None) -> None:
        """
        :param thresholds: When to speak; by default the defaults of `CollapseThresholds`.
        """
        self._thresholds = thresholds or CollapseThresholds()
        self._num_pinned: dict[str, int] = {}
        self._standing: set[tuple[CollapseKind, str]] = set()

    @property
    def standing(self) -> frozenset[tuple[CollapseKind, str]]:
        """Kind and source of every warning that has not cleared: what a run may be stopped for."""
        return frozenset(self._standing)

    def observe(
        self,
        source: str,
        step: int,
        *,
        plain_loss: float,
        chance: float,
        adapted_loss: float | None = None,
        accuracy: float | None = None,
        code_share: float | None = None,
        code_perplexity: float | None = None,
        chance_is_bound: bool = False,
    ) -> list[CollapseWarning]:
        """Take in one validation of one source.

        A sign whose measurements are missing or not finite is not judged: a warning that stands
        goes on to stand.

        :param source: The name of the source.
        :param step: The outer step.
        :param plain_loss: The loss at theta, in bits.
        :param chance: The loss of a model that has learned nothing, in bits.
        :param chance_is_bound: Whether a model that has learned nothing may also lie above it, as where chance is the
            entropy of the source's own labels and the model knows those of all sources only.
        :param adapted_loss: The loss after the inner steps, in bits.
        :param accuracy: The share of targets found among their distractors, 0 to 1.
        :param code_share: The share of codes used, 0 to 1.
        :param code_perplexity: The perplexity of the codes used, summed over groups.

        :returns: What is seen for the first time, or again after it had cleared.
        """
        where = f"Source {source} at step {step}"

        few_codes = self._judge_codes(_finite(code_share), _finite(code_perplexity))

        loss, level = _finite(plain_loss), _finite(chance)

        findings: dict[CollapseKind, str | None] = {
            "codebook_collapse": self._judge_task(where, _finite(accuracy), few_codes),
            "nothing_learned": self._judge_learning(
                where, source, step, loss, level, chance_is_bound
            ),
            "theta_let_go": (
                ""
                if chance_is_bound and step <= self._thresholds.num_grace_steps
                else self._judge_theta(where, loss, _finite(adapted_loss), level)
            ),
        }

        return [w for kind, text in findings.items() if (w := self._update(kind, source, text))]

    # What follows returns a message where something is wrong, an empty string where nothing is, and
    # `None` where it cannot be judged.

    def _judge_codes(self, share: float | None, perplexity: float | None) -> str | None:
        if share is not None:
            few = share < self._thresholds.min_code_share

            return f"only {share:.1%} of the codes are used" if few else ""

        if perplexity is not None:
            few = perplexity < self._thresholds.min_code_perplexity

            return f"the code perplexity is only {perplexity:.1f}" if few else ""

        return None

    def _judge_task(self, where: str, accuracy: float | None, few_codes: str | None) -> str | None:
        if accuracy is None or few_codes is None:
            return None

        if accuracy < self._thresholds.max_accuracy or not few_codes:
            return ""

        return (
            f"{where}: the codebook has collapsed, as {accuracy:.1%} of the targets are found "
            f"while {few_codes}; weigh the diversity loss more, let the quantizer's temperature "
            "fall more slowly, or lower the learning rate."
        )

    def _judge_learning(
        self,
        where: str,
        source: str,
        step: int,
        plain_loss: float | None,
        chance: float | None,
        chance_is_bound: bool,
    ) -> str | None:
        if plain_loss is None or chance is None:
            return None

        if step <= self._thresholds.num_grace_steps:
            return ""

        distance = plain_loss - chance
        is_above = chance_is_bound and distance > 0.0

        pinned = is_above or abs(distance) <= self._thresholds.chance_eps

        number = self._num_pinned[source] = self._num_pinned.get(source, 0) + 1 if pinned else 0

        if number < self._thresholds.num_observations:
            return ""

        return (
            f"{where}: nothing has been learned, as the loss at theta of {plain_loss:.3f} bits has "
            f"been at {'or above ' if chance_is_bound else ''}chance, {chance:.3f}, {number} times in "
            "a row; train conventionally first (start_after_num_steps), lower inner_lr, set "
            f"outer_weights=uniform, {'raise unmasked_weight, ' if chance_is_bound else ''}or raise "
            "the learning rate."
        )

    def _judge_theta(
        self, where: str, plain_loss: float | None, adapted_loss: float | None, chance: float | None
    ) -> str | None:
        if plain_loss is None or adapted_loss is None or chance is None:
            return None

        if plain_loss <= chance + self._thresholds.let_go_margin or adapted_loss >= chance:
            return ""

        return (
            f"{where}: theta has been let go, as the loss at theta of {plain_loss:.3f} bits is "
            f"above chance, {chance:.3f}, while it is {adapted_loss:.3f} after the inner steps; "
            "lower inner_lr or clip the inner gradient (inner_max_grad_norm), set "
            "outer_weights=uniform, or train conventionally for longer first "
            "(start_after_num_steps)."
        )

    def _update(
        self, kind: CollapseKind, source: str, finding: str | None
    ) -> CollapseWarning | None:
        if finding == "":
            self._standing.discard((kind, source))
        elif finding is not None and (kind, source) not in self._standing:
            self._standing.add((kind, source))

            return CollapseWarning(kind, source, finding)

        return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
