"""What the subcommands share: how a parser is added, and common arguments."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from eqssl_speech.cores import num_cores
from eqssl_speech.tasks.signals import STOPPED, stop_request

if TYPE_CHECKING:
    from fairseq2.recipe.base import Recipe


def add_command(commands: Any, name: str, description: str, summary: str) -> ArgumentParser:
    """Add a subcommand.

    :param commands: What ``add_subparsers`` returned.
    :param name: The name of the subcommand.
    :param description: What ``--help`` says, with examples.
    :param summary: The line in the list of commands.
    """
    parser = commands.add_parser(
        name,
        description=description,
        help=summary,
        formatter_class=RawDescriptionHelpFormatter,
    )

    assert isinstance(parser, ArgumentParser)

    return parser


def add_conversions(parser: ArgumentParser) -> None:
    """Add ``--resample`` and ``--downmix``."""
    parser.add_argument(
        "--resample", action="store_true", help="accept and convert other sample rates"
    )
    parser.add_argument(
        "--downmix", action="store_true", help="accept and average several channels"
    )


def add_limits(parser: ArgumentParser, min_audio_s: str, *, least_audio_s: float = 0.0) -> None:
    """Add ``--min-audio-s``, ``None`` unless it is given, and ``--max-bad-share``.

    :param min_audio_s: What is said of the default of the first.
    :param least_audio_s: The least that it may be, in seconds.
    """
    parser.add_argument(
        "--min-audio-s",
        metavar="S",
        type=partial(_parse_float, low=least_audio_s),
        help=f"shortest recording (default: {min_audio_s})",
    )
    parser.add_argument(
        "--max-bad-share",
        metavar="X",
        type=partial(_parse_float, low=0.0, high=1.0),
        default=0.4,
        help="a source with more bad recordings is unusable (default: 0.4)",
    )


def _parse_float(text: str, low: float, high: float = math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan

    if not low <= value <= high:
        limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"

        raise ArgumentTypeError(f"must be a number {limits}, but is {text!r} instead")

    return value


def add_jobs(parser: ArgumentParser) -> None:
    """Add ``--jobs``."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=positive_int,
        default=num_cores(),
        help="files worked on at once (default: the number of cores)",
    )


def positive_int(text: str) -> int:
    """Parse an integer greater than 0, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0

    if value <= 0:
        raise ArgumentTypeError(f"must be an integer greater than 0, but is {text!r} instead")

    return value


def run_recipe(name: str, args: list[str], description: str, create: Callable[[], Recipe]) -> int:
    """Run a recipe through the host's command line.

    :param name: The subcommand.
    :param args: The host's arguments.
    :param description: What ``--help`` says before the host's own help.
    :param create: Imports and creates the recipe.
    :returns: The exit status: 0, or 75 if the run was asked to stop and can go on.
    """
    if {"-h", "--help"} & set(args):
        print(description, flush=True)

    # Before the imports that take seconds.
    stop_request.install()

    from fairseq2.recipe.cli import main

    from eqssl_speech.tasks.host_errors import report_mistakes_in_one_sentence
    from eqssl_speech.tasks.ranks import report_failure

    report_mistakes_in_one_sentence()

    # The host reads its arguments, and the name for its usage line, from here.
    sys.argv = [f"eqssl {name}", *args]

    try:
        main(create())
    except SystemExit as ex:
        # Raised where the host handles what went wrong.
        if ex.__context__ is not None:
            stop_request.ignore()
            report_failure(ex.__context__, ex.code if isinstance(ex.code, int) else 1)

        raise

    if stop_request.obeyed:
        stop_request.ignore()

        return STOPPED

    stop_request.restore()

    return 0
