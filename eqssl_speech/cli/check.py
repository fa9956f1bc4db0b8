"""``eqssl check``: read every file of a corpus."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import (
    add_command,
    add_conversions,
    add_jobs,
    add_limits,
    positive_int,
)

if TYPE_CHECKING:
    from eqssl_speech.tasks.check import CorpusCheck
    from eqssl_speech.text.ctc_check import CtcCheck

_CHECK: Final = """\
Read every recording of a corpus from beginning to end and name what is wrong with it. Prints the table that
a run begins with. Phone labels (SPLIT.phones.ctm), where a source has them, must fit its recordings. The exit
status is 2 if a source cannot be trained on, or its phone labels cannot be used.

With --ctc the text is looked at as well, before anything is fine-tuned on it: labels that do not fit into the
recording, text that is refused, empty, repeated in another split or oddly fast or slow, and characters that the
vocabulary lacks. Each is named with its line, and each kind with what to do.

examples:
  eqssl check recipes/quickstart/corpus
  eqssl check corpus --source ru-festvox --source cs-fillets --jobs 8
  eqssl check corpus --ctc                                        by default rules, characters as labels
  eqssl check corpus --ctc --tokenizer tokenizers/bpe             with the labels of a tokenizer
  eqssl check corpus --sampling-alpha 0.5 --train-hours 1000      with shares and expected passes
"""

_MIN_AUDIO_S: Final = 1.0
_MIN_CTC_AUDIO_S: Final = 0.62

_MAX_PER_SOURCE: Final = 20


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
    add_limits(parser, "1.0, which is that of a pre-training run; with --ctc 0.62")
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
    _add_ctc(parser)
    add_jobs(parser)
    parser.set_defaults(run=_run)


def _add_ctc(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("fine-tuning")

    group.add_argument("--ctc", action="store_true", help="look at the text as well")
    group.add_argument(
        "--tokenizer",
        metavar="DIR",
        type=Path,
        help="look at the text with this tokenizer (default: characters, by the rules of each language)",
    )
    group.add_argument(
        "--all",
        action="store_true",
        help=f"name every finding of --ctc (default: {_MAX_PER_SOURCE} of each kind and source)",
    )


def _run(options: Namespace) -> int:
    from eqssl_speech.console import print_checked, show_progress
    from eqssl_speech.data.audio import AudioFormat
    from eqssl_speech.tasks.check import CheckOptions, check_corpus, open_corpus

    ctc = _prepare_ctc(options)

    corpus, num_entries = open_corpus(options.corpus, options.source)

    check_options = CheckOptions(
        fmt=AudioFormat(
            sample_rate=options.sample_rate, resample=options.resample, downmix=options.downmix
        ),
        min_audio_s=_choose_min_audio_s(options),
        max_bad_share=options.max_bad_share,
        num_workers=options.jobs,
    )

    with show_progress() as progress:
        bar = progress.add_task("recordings", total=num_entries)

        check = check_corpus(corpus, check_options, on_progress=lambda n: progress.advance(bar, n))

    print_checked(
        check, check.list_rows(alpha=options.sampling_alpha, train_hours=options.train_hours)
    )

    is_trainable = ctc is None or ctc(check)

    return 0 if is_trainable and not check.unusable else 2


def _choose_min_audio_s(options: Namespace) -> float:
    if options.min_audio_s is not None:
        return float(options.min_audio_s)

    return _MIN_CTC_AUDIO_S if options.ctc else _MIN_AUDIO_S


def _prepare_ctc(options: Namespace) -> Callable[[CorpusCheck], bool] | None:
    """Find mistakes in the arguments before files are read; what is returned looks at the text and prints."""
    from eqssl_speech.data.corpus import load_corpus
    from eqssl_speech.error import InputError
    from eqssl_speech.text.ctc_check import check_ctc
    from eqssl_speech.text.tokenizer import CtcTokenizer
    from eqssl_speech.text.transcripts import require_readable_text, select_transcribed

    if not options.ctc:
        if options.tokenizer is not None or options.all:
            raise InputError("`--tokenizer` and `--all` are about text; give `--ctc` as well.")
        return None

    corpus, _ = select_transcribed(load_corpus(options.corpus), options.source)

    tokenizer = None if options.tokenizer is None else CtcTokenizer.load(options.tokenizer)

    require_readable_text(corpus)

    def run(check: CorpusCheck) -> bool:
        result = check_ctc(
            check.corpus, check.reports, tokenizer=tokenizer, sample_rate=options.sample_rate
        )

        _print_ctc(result, None if options.all else _MAX_PER_SOURCE)

        return not result.untrainable

    return run


def _print_ctc(check: CtcCheck, max_per_source: int | None) -> None:
    from eqssl_speech.text.tables import render_table

    if check.num_utterances:
        table = render_table(check.list_rows(), title="text, for CTC", left=["source"])
        print(f"\n{table}")

    for line in check.list_lines(max_per_source):
        print(line)

    print()

    if check.without_text:
        names = ", ".join(check.without_text)
        print(f"Not looked at, as they have no training text (train.wrd): {names}.")

    if check.num_utterances and not check.findings:
        print("Nothing was found in the text.")

    for sentence in check.untrainable:
        print(f"eqssl: {sentence}", file=sys.stderr)
