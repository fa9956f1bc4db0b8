"""The ``eqssl`` command. Each subcommand parses its arguments, makes one call and prints what comes back.

Whatever takes long to import is imported by the subcommand that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from eqssl_speech.error import InputError

_DESCRIPTION: Final = """\
Self-supervised speech pre-training under equilibrium constraints, on fairseq2.

examples:
  eqssl doctor                                                 what this machine has and lacks
  eqssl prepare folder recordings corpus                       a corpus of your own recordings
  eqssl check corpus                                           read every file of it
  eqssl pretrain runs/mine --config dataset.corpus=corpus      train on it
"""

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
"""

_PREPARE: Final = """\
Make a corpus: one folder of fairseq manifests per source, and `sources.tsv`, which names the language,
domain and licence of each.

examples:
  eqssl prepare debian-speech corpora/debian_speech --jobs 8
  eqssl prepare folder recordings corpora/mine --resample
"""

_DEBIAN: Final = """\
Download the speech in Debian's archive, decode, resample, filter and split it. Runs on Debian and Ubuntu,
needs no root and installs nothing. Interrupted, it goes on where it stopped when started again.

examples:
  eqssl prepare debian-speech corpora/debian_speech
  eqssl prepare debian-speech corpora/ru --package festvox-ru
  eqssl prepare debian-speech corpora/debian_speech --cache /data/debs --jobs 8
"""

_FOLDER: Final = """\
Make a corpus of your recordings: DIR holds one folder per source (a language, a domain), each with audio
files at any depth. Recordings that are 16 kHz mono stay where they are. Text is taken from `X.txt` beside
`X.wav`, or from a `.tsv` in the source's folder with lines `path<TAB>text`, where there is any.

examples:
  eqssl prepare folder recordings corpora/mine
  eqssl prepare folder recordings corpora/mine --resample --downmix --valid-share 0.1
"""

_CHECK: Final = """\
Read every recording of a corpus from beginning to end and name what is wrong with it. Prints the table that
a run begins with. The exit status is 2 if a source cannot be trained on.

examples:
  eqssl check recipes/quickstart/corpus
  eqssl check corpus --source ru-festvox --source cs-fillets --jobs 8
  eqssl check corpus --sampling-alpha 0.5 --train-hours 1000      with shares and expected passes
"""

_DOCTOR: Final = """\
Print the versions found and wanted, the devices, and each problem with its remedy in one sentence. The exit
status is 1 if there is a problem.

examples:
  eqssl doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``eqssl`` command.

    :param argv: The arguments without the program's name; by default those of the process.
    :returns: The exit status: 0, 1 (something failed), 2 (the input cannot be used) or 130 (interrupted).
    """
    args = list(sys.argv[1:] if argv is None else argv)

    try:
        # Not left to argparse, which would take fairseq2's flags for its own.
        if args[:1] == ["pretrain"]:
            return _pretrain(args[1:])

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

    # For the list of commands only.
    _add_command(commands, "pretrain", _PRETRAIN, "pre-train a model (fairseq2's flags)")

    prepare = _add_command(commands, "prepare", _PREPARE, "make a corpus")
    corpora = prepare.add_subparsers(metavar="CORPUS", required=True)
    _add_debian_speech(corpora)
    _add_folder(corpora)

    _add_check(commands)

    doctor = _add_command(commands, "doctor", _DOCTOR, "say what this machine has and lacks")
    doctor.set_defaults(run=_doctor)

    return parser


def _add_command(commands: Any, name: str, description: str, summary: str) -> ArgumentParser:
    parser = commands.add_parser(
        name,
        description=description,
        help=summary,
        formatter_class=RawDescriptionHelpFormatter,
    )

    assert isinstance(parser, ArgumentParser)

    return parser


def _add_debian_speech(corpora: Any) -> None:
    parser = _add_command(corpora, "debian-speech", _DEBIAN, "the speech in Debian's archive")

    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the corpus")
    parser.add_argument(
        "--cache", type=Path, help="where packages are kept (default: inside OUT; 1.7 GB for all)"
    )
    parser.add_argument(
        "--package",
        metavar="NAME",
        action="append",
        help="use this package; may be given several times (default: all)",
    )
    _add_jobs(parser)
    parser.set_defaults(run=_prepare_debian_speech)


def _add_folder(corpora: Any) -> None:
    parser = _add_command(corpora, "folder", _FOLDER, "your own recordings")

    parser.add_argument("directory", metavar="DIR", type=Path, help="one folder per source")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the corpus")
    parser.add_argument(
        "--valid-share", type=float, default=0.05, help="share for validation (default: 0.05)"
    )
    parser.add_argument(
        "--test-share", type=float, default=0.0, help="share for testing (default: 0)"
    )
    parser.add_argument(
        "--min-audio-s", type=float, default=0.6, help="shortest recording (default: 0.6)"
    )
    _add_conversions(parser)
    _add_jobs(parser)
    parser.set_defaults(run=_prepare_folder)


def _add_check(commands: Any) -> None:
    parser = _add_command(commands, "check", _CHECK, "read every file of a corpus")

    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="check this source; may be given several times (default: all)",
    )
    parser.add_argument(
        "--sample-rate",
        type=_positive_int,
        default=16_000,
        metavar="HZ",
        help="rate that the model takes (default: 16000)",
    )
    _add_conversions(parser)
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
    _add_jobs(parser)
    parser.set_defaults(run=_check)


def _add_conversions(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--resample", action="store_true", help="accept and convert other sample rates"
    )
    parser.add_argument(
        "--downmix", action="store_true", help="accept and average several channels"
    )


def _add_jobs(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_positive_int,
        default=os.cpu_count() or 1,
        help="files worked on at once (default: the number of cores)",
    )


def _positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0

    if value <= 0:
        raise ArgumentTypeError(f"must be an integer greater than 0, but is {text!r} instead")

    return value


def _pretrain(args: list[str]) -> int:
    if {"-h", "--help"} & set(args):
        print(_PRETRAIN, flush=True)

    from fairseq2.recipe.cli import main as run_recipe

    from eqssl_speech.tasks.pretrain.recipe import PretrainRecipe

    # The host reads its arguments, and the name for its usage line, from here.
    sys.argv = ["eqssl pretrain", *args]

    run_recipe(PretrainRecipe())

    return 0


def _prepare_debian_speech(options: Namespace) -> int:
    from eqssl_speech.console import print_prepared, show_progress, track_phases
    from eqssl_speech.data.corpora.debian_speech import prepare_debian_speech

    with show_progress() as progress:
        report = prepare_debian_speech(
            options.out,
            cache=options.cache,
            num_workers=options.jobs,
            packages=options.package,
            progress=track_phases(progress),
        )

    print_prepared(report)

    return 0


def _prepare_folder(options: Namespace) -> int:
    from eqssl_speech.console import print_prepared, show_progress, track_phases
    from eqssl_speech.data.corpora.folder import prepare_folder

    with show_progress() as progress:
        report = prepare_folder(
            options.directory,
            options.out,
            valid_share=options.valid_share,
            test_share=options.test_share,
            min_duration_s=options.min_audio_s,
            resample=options.resample,
            downmix=options.downmix,
            num_workers=options.jobs,
            progress=track_phases(progress),
        )

    print_prepared(report)

    return 0


def _check(options: Namespace) -> int:
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


def _doctor(options: Namespace) -> int:
    from eqssl_speech.doctor import examine, render

    findings = examine()

    print(render(findings))

    return 1 if any(finding.problem for finding in findings) else 0
