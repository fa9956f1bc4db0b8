"""``eqssl check``: read every file of a corpus."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from eqssl_speech.cli.common import add_command, add_conversions, add_jobs, positive_int

_CHECK: Final = """\
Read every recording of a corpus from beginning to end and name what is wrong with it. Prints the table that
a run begins with. The exit status is 2 if a source cannot be trained on.

examples:
  eqssl check recipes/quickstart/corpus
  eqssl check corpus --source ru-festvox --source cs-fillets --jobs 8
  eqssl check corpus --sampling-alpha 0.5 --train-hours 1000      with shares and expected passes
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "check", _CHECK, "read every file of a corpus")

    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="check this source; may be given several times (default: all)",
    )
    parser.add_argument(
        "--sample-rate",
        type=positive_int,
        default=16_000,
        metavar="HZ",
        help="rate that the model takes (default: 16000)",
    )
    add_conversions(parser)
    parser.add_argument(
        "--min-audio-s", type=float, default=1.0, help="shortest recording (default: 1.0)"
    )
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.4,
        help="a source with more bad recordings is unusable (default: 0.4)",
    )
    parser.add_argument(
        "--sampling-alpha",
        type=float,
        default=0.0,
        help="`dataset.sampling_alpha` of a planned run; 0, the default, is a run that takes all sources each step",
    )
    parser.add_argument(
        "--train-hours",
        type=float,
        metavar="H",
        help="hours of audio of a planned run (num_steps x audio_seconds_per_update / 3600), for expected passes",
    )
    add_jobs(parser)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.console import print_checked, show_progress
    from eqssl_speech.data.audio import AudioFormat
    from eqssl_speech.tasks.check import CheckOptions, check_corpus, open_corpus

    corpus, num_entries = open_corpus(options.corpus, options.source)

    check_options = CheckOptions(
        fmt=AudioFormat(
            sample_rate=options.sample_rate, resample=options.resample, downmix=options.downmix
        ),
        min_audio_s=options.min_audio_s,
        max_bad_share=options.max_bad_share,
        num_workers=options.jobs,
    )

    with show_progress() as progress:
        bar = progress.add_task("recordings", total=num_entries)

        check = check_corpus(corpus, check_options, on_progress=lambda n: progress.advance(bar, n))

    print_checked(
        check, check.list_rows(alpha=options.sampling_alpha, train_hours=options.train_hours)
    )

    return 2 if check.unusable else 0
