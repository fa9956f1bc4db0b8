"""How a run can end that is going wrong; the host prints the sentence and exits with status 2."""

from __future__ import annotations

from fairseq2.logging import log
from fairseq2.recipe.error import RecipeError


class TrainingDivergedError(RecipeError):
    """Raised when too many numbers in a row were not finite."""


class CollapseError(RecipeError):
    """Raised when the collapse detector sees something and the configuration asks to stop then."""


class BlankOutputError(RecipeError):
    """Raised when a model keeps emitting nothing but blanks and the configuration asks to stop then."""


class CheckpointSaveError(Exception):
    """Raised on all ranks when a checkpoint cannot be written; those before it are as they were."""


def handle_save_error(ex: CheckpointSaveError) -> int:
    """Print the sentence; the full disk of a run is no mistake of its user, whose status would be 2."""
    log.error(str(ex))

    return 1
