"""The ``eqssl`` command. Each subcommand parses its arguments, makes one call and prints what comes back.

Whatever takes long to import is imported by the subcommand that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Final

from eqssl_speech.cli import (
    adapt,
    align,
    check,
    doctor,
    evaluate,
    export,
    finetune,
    labels,
    lm,
    prepare,
    pretrain,
    report,
    study,
    tokenizer,
    transcribe,
)
from eqssl_speech.error import InputError

_DESCRIPTION: Final = """\
Self-supervised speech pre-training under equilibrium constraints, on fairseq2.

examples:
  eqssl doctor                                                 what this machine has and lacks
  eqssl prepare folder recordings corpus                       a corpus of your own recordings
  eqssl check corpus                                           read every file of it
  eqssl labels corpus labels/mfcc                              what HuBERT is taught with
  eqssl pretrain runs/mine --config dataset.corpus=corpus      train on it
  eqssl adapt runs/mine corpus                                 what steps on one source do to its loss
  eqssl tokenizer corpus runs/tokenizer                        the vocabulary of a recogniser
  eqssl finetune runs/asr --config-file my.yaml                fine-tune to a recogniser
  eqssl evaluate runs/asr corpus                               its error rates per language
  eqssl transcribe runs/asr recordings                         text for new recordings
  eqssl align runs/asr corpus --out test.ctm                   when each word of the texts is said
  eqssl export runs/asr --to hf --out exported                 for other programs
  eqssl report runs/mine runs/asr --out report                 pictures and tables of runs, in one page
  eqssl study my.yaml corpus studies/mine                      many trainings that are compared
"""

_RECIPES: Final[dict[str, Callable[[list[str]], int]]] = {
    "pretrain": pretrain.run,
    "finetune": finetune.run,
}

_COMMANDS: Final = (
    doctor,
    prepare,
    check,
    labels,
    pretrain,
    adapt,
    tokenizer,
    finetune,
    evaluate,
    transcribe,
    align,
    export,
    lm,
    report,
    study,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``eqssl`` command.

    :param argv: The arguments without the program's name; by default those of the process.
    :returns: The exit status: 0, 1 (something failed), 2 (the input cannot be used), 3 (the numbers of a training went
        wrong), 75 (a run was asked to stop and can go on) or 130 (interrupted).
    """
    args = list(sys.argv[1:] if argv is None else argv)

    try:
        # Not left to argparse, which would take fairseq2's flags for its own.
        if args[:1] and args[0] in _RECIPES:
            return _RECIPES[args[0]](args[1:])

        options = _create_parser().parse_args(args)

        run: Callable[[Namespace], int] = options.run

        return run(options)
    except InputError as ex:
        print(f"eqssl: {ex}", file=sys.stderr)

        return 2
    except KeyboardInterrupt:
        print("eqssl: interrupted.", file=sys.stderr)

        return 130


def _create_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="eqssl", description=_DESCRIPTION, formatter_class=RawDescriptionHelpFormatter
    )

    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    for command in _COMMANDS:
        command.add(commands)

    return parser
