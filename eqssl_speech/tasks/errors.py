"""How a run can end that is going wrong: with a sentence, and an exit status that says whose fault it is."""

from __future__ import annotations

from typing import Final

from fairseq2.logging import log
from fairseq2.recipe.cli import register_cli_error
from fairseq2.runtime.dependency import DependencyContainer

DIVERGED: Final = 3
"""The exit status of a training whose numbers went wrong; that of a mistake of its user is 2."""


class DivergenceError(Exception):
    """A training whose numbers went wrong; no error of the host's recipes, which would end with status 2."""


class TrainingDivergedError(DivergenceError):
    """Raised when too many numbers in a row were not finite."""


class CollapseError(DivergenceError):
    """Raised when the collapse detector sees something and the configuration asks to stop then."""


class BlankOutputError(DivergenceError):
    """Raised when a model keeps emitting nothing but blanks and the configuration asks to stop then."""


class CheckpointSaveError(Exception):
    """Raised on all ranks when a checkpoint cannot be written; those before it are as they were."""


def register_divergence(container: DependencyContainer) -> None:
    """Have trainings that go wrong end with :data:`DIVERGED`."""
    register_cli_error(container, TrainingDivergedError, _handle_divergence)
    register_cli_error(container, CollapseError, _handle_divergence)
    register_cli_error(container, BlankOutputError, _handle_divergence)


def _handle_divergence(ex: DivergenceError) -> int:
    log.error(str(ex))

    return DIVERGED


def handle_save_error(ex: CheckpointSaveError) -> int:
    """Print the sentence; the full disk of a run is no mistake of its user, whose status would be 2."""
    log.error(str(ex))

    return 1
