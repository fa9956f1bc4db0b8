"""``eqssl finetune``: fairseq2's command line on the fine-tuning recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, run_recipe

if TYPE_CHECKING:
    from fairseq2.recipe.base import Recipe

_FINETUNE: Final = """\
Fine-tune a pre-trained encoder with CTC to a recogniser of one or many languages. The arguments are those of
fairseq2, listed below: a run is a configuration file, changes to it, and a directory for everything that the
run writes. Started again with the same arguments, a run goes on from its last checkpoint.

examples:
  eqssl tokenizer corpus runs/tokenizer
  eqssl check corpus --ctc --tokenizer runs/tokenizer
  eqssl finetune runs/asr --config-file my.yaml --config tokenizer=runs/tokenizer pretrained=runs/mine
  eqssl finetune runs/scratch --config-file my.yaml --config pretrained=null
  eqssl finetune --config-file my.yaml --dump-config > whole.yaml
  torchrun --nproc-per-node 2 -m eqssl_speech finetune runs/asr --config-file my.yaml

`--config` takes everything up to the next flag, so write the directory before it.

SIGTERM or SIGUSR1, to any of the processes, ends the run after the step in hand, with a checkpoint and exit status 75
(that of torchrun is 1 then, and its summary says 75). Started again, it goes on from that step.
"""


def add(commands: Any) -> None:
    """Add the command to the list of commands; its arguments are the host's."""
    add_command(commands, "finetune", _FINETUNE, "fine-tune with CTC (fairseq2's flags)")


def run(args: list[str]) -> int:
    """Run the recipe with the host's arguments."""
    return run_recipe("finetune", args, _FINETUNE, _create_recipe)


def _create_recipe() -> Recipe:
    from eqssl_speech.tasks.finetune.recipe import FinetuneRecipe

    return FinetuneRecipe()
