"""``eqssl pretrain``: fairseq2's command line on the pre-training recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, run_recipe

if TYPE_CHECKING:
    from fairseq2.recipe.base import Recipe

_PRETRAIN: Final = """\
Pre-train a model on a corpus. The arguments are those of fairseq2, listed below: a run is a configuration
file, changes to it, and a directory for everything that the run writes. Started again with the same
arguments, a run goes on from its last checkpoint.

examples:
  eqssl pretrain --config-file recipes/quickstart/equilibrium.yaml runs/mine
  eqssl pretrain runs/mine --config-file my.yaml --config dataset.corpus=corpus equilibrium.num_inner_steps=3
  eqssl pretrain runs/conventional --config-file my.yaml --config equilibrium=null
  eqssl pretrain --config-file my.yaml --dump-config > whole.yaml
  torchrun --nproc-per-node 2 -m eqssl_speech pretrain --config-file my.yaml runs/mine

`--config` takes everything up to the next flag, so write the directory before it.

SIGTERM or SIGUSR1, to any of the processes, ends the run after the step in hand, with a checkpoint and exit status 75
(that of torchrun is 1 then, and its summary says 75). Started again, it goes on from that step.
"""


def add(commands: Any) -> None:
    """Add the command to the list of commands; its arguments are the host's."""
    add_command(commands, "pretrain", _PRETRAIN, "pre-train a model (fairseq2's flags)")


def run(args: list[str]) -> int:
    """Run the recipe with the host's arguments."""
    return run_recipe("pretrain", args, _PRETRAIN, _create_recipe)


def _create_recipe() -> Recipe:
    from eqssl_speech.tasks.pretrain.recipe import PretrainRecipe

    return PretrainRecipe()
