"""What a search returns: tokens, the frames they stand at, and how sure the model is of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """Tokens of one utterance, collapsed and without blanks."""

    tokens: tuple[int, ...]
    """The indices into the vocabulary."""

    frames: tuple[tuple[int, int], ...]
    """The frames ``[start, end)`` at which each token stands, in order and apart; blanks lie between."""

    score: float
    """What the search ranks by, a natural logarithm; what it is the logarithm of, the search says."""

    confidences: tuple[float, ...]
    """How sure the model is of each token, in [0, 1]: the mean of its posterior over its frames."""
