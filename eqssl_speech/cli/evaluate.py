"""``eqssl evaluate``: error rates of a model on a corpus."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, add_jobs, positive_int
from eqssl_speech.cli.recognition import add_recognition, load_recognition

if TYPE_CHECKING:
    from eqssl_speech.cli.recognition import Recognition
    from eqssl_speech.report.evaluation import EvaluationContext
    from eqssl_speech.tasks.evaluate.comparison import Comparison
    from eqssl_speech.tasks.evaluate.gang import Gang
    from eqssl_speech.tasks.evaluate.references import EvaluationSet
    from eqssl_speech.tasks.evaluate.scores import Bootstrap, Evaluation

_EVALUATE: Final = """\
Recognise a split of a corpus and count the errors: word and character error rates (WER, CER) per source, language and
domain, over all (micro), averaged over languages and sources (macro), and the worst, with bootstrap intervals. Both
the reference and the hypothesis are in the written form of the model's tokenizer.

With `--out`, writes summary.json, summary.png and hypotheses.tsv (every utterance, the worst first). Recordings that
cannot be read and texts that cannot be written by the rules are named, counted and left out.

examples:
  eqssl evaluate runs/finetuned corpus --out runs/finetuned/test
  eqssl evaluate runs/finetuned corpus --split valid --source ru-festvox --source es-drascula
  eqssl evaluate runs/finetuned corpus --compare runs/other/test/summary.json
  torchrun --nproc-per-node 8 -m eqssl_speech evaluate runs/finetuned corpus --out runs/finetuned/test
"""

# A narrow terminal breaks the lines of a table, which is better than cutting its numbers short.
_MIN_WIDTH: Final = 140


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "evaluate", _EVALUATE, "error rates of a model on a corpus")

    parser.add_argument("model", metavar="MODEL", type=Path, help="directory of a fine-tuning run")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument("--split", default="test", help="split to evaluate (default: test)")
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="evaluate this source; may be given several times (default: all that have the split)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where files are written")
    parser.add_argument(
        "--compare", metavar="FILE", type=Path, help="summary.json of another evaluation"
    )
    parser.add_argument(
        "--bootstrap",
        metavar="N",
        type=positive_int,
        default=1000,
        help="resamples of the intervals (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the resamples, 0 or greater (default: 1)"
    )
    add_recognition(parser, batch_s=60.0)
    add_jobs(parser)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.error import InputError
    from eqssl_speech.report.hypotheses import HYPOTHESES_FILE_NAME, read_hypotheses
    from eqssl_speech.tasks.evaluate.comparison import compare
    from eqssl_speech.tasks.evaluate.gang import open_gang
    from eqssl_speech.tasks.evaluate.scores import Bootstrap
    from eqssl_speech.tasks.transcribe.output import make_directory

    if options.seed < 0:
        raise InputError(f"`--seed` must be at least 0, but is {options.seed} instead.")

    bootstrap = Bootstrap(num_resamples=options.bootstrap, seed=options.seed)

    # What can fail fails before hours of work.
    theirs = None
    if options.compare is not None:
        theirs = read_hypotheses(options.compare.with_name(HYPOTHESES_FILE_NAME))
    if options.out is not None:
        make_directory(options.out)

    with open_gang() as gang:
        recognition = load_recognition(options)
        evaluation_set = _load_set(options, recognition, gang)

        evaluation = _evaluate(evaluation_set, recognition, bootstrap, gang)

        if gang.rank == 0:
            comparison = None
            if theirs is not None:
                comparison = compare(
                    evaluation.utterances, theirs, evaluation.sources, bootstrap, options.compare
                )

            _report(evaluation, _describe(options, recognition), comparison, options.out)

    return 0


def _load_set(options: Namespace, recognition: Recognition, gang: Gang) -> EvaluationSet:
    from eqssl_speech.console import show_progress
    from eqssl_speech.tasks.evaluate.references import load_evaluation_set

    with ExitStack() as stack:
        advance = None

        if gang.rank == 0:
            progress = stack.enter_context(show_progress())
            bar = progress.add_task("reading headers", total=None)

            def advance(count: int) -> None:
                progress.advance(bar, count)

        return load_evaluation_set(
            options.corpus,
            options.split,
            options.source,
            recognition.recognizer,
            num_workers=options.jobs,
            on_progress=advance,
        )


def _evaluate(
    evaluation_set: EvaluationSet, recognition: Recognition, bootstrap: Bootstrap, gang: Gang
) -> Evaluation:
    from eqssl_speech.cli.audio_progress import show_audio_progress
    from eqssl_speech.tasks.evaluate.recognition import EvaluationJob

    job = EvaluationJob(
        evaluation_set, recognition.recognizer, recognition.search, recognition.options, gang
    )

    if gang.rank > 0:
        return job.run(bootstrap)

    with show_audio_progress(job.num_utterances, job.audio_s) as progress:

        def advance(audio_s: float) -> None:
            progress.advance(audio_s)
            progress.finish_recording()

        return job.run(bootstrap, on_progress=advance)


def _describe(options: Namespace, recognition: Recognition) -> EvaluationContext:
    from eqssl_speech.report.evaluation import EvaluationContext

    return EvaluationContext(
        model=recognition.recognizer.description,
        decoding=recognition.search.description,
        corpus=options.corpus,
        split=options.split,
        trained_on=frozenset(language for _, language in recognition.recognizer.sources),
    )


def _report(
    evaluation: Evaluation,
    context: EvaluationContext,
    comparison: Comparison | None,
    out: Path | None,
) -> None:
    from rich.console import Console

    from eqssl_speech.report.evaluation import to_json, write_evaluation
    from eqssl_speech.report.evaluation_picture import draw_evaluation
    from eqssl_speech.report.evaluation_table import (
        build_table,
        describe_comparison,
        list_confusions,
    )
    from eqssl_speech.report.hypotheses import write_hypotheses
    from eqssl_speech.tasks.transcribe.output import to_printable

    _print_left_out(evaluation)

    console = Console()
    console.width = max(console.width, _MIN_WIDTH)
    console.print(build_table(evaluation, context))
    console.print()

    lines = list_confusions(evaluation)

    if evaluation.micro.empty_share == 1.0:
        lines.append(
            "Nothing was recognised: the model gives blanks only, as one does that was trained too briefly or with too "
            "high a learning rate. Fine-tune it for longer, and look at `blank_share` of its validations."
        )
    if comparison is not None:
        lines += describe_comparison(comparison)

    if out is not None:
        files = [
            write_evaluation(to_json(evaluation, context, comparison), out),
            draw_evaluation(evaluation, context, out),
            write_hypotheses(evaluation.utterances, out),
        ]
        lines.append(f"Written: {', '.join(map(str, files))}")

    for line in lines:
        print(to_printable(line))


def _print_left_out(evaluation: Evaluation) -> None:
    from collections import Counter

    from eqssl_speech.tasks.transcribe.output import to_printable

    for utterance in evaluation.left_out:
        print(to_printable(f"left out ({utterance.reason}): {utterance.message}"), file=sys.stderr)

    for name, reason in evaluation.left_out_sources.items():
        print(to_printable(f"left out: {name}: {reason}"), file=sys.stderr)

    if evaluation.left_out:
        reasons = Counter(utterance.reason for utterance in evaluation.left_out).most_common()
        total = len(evaluation.left_out) + len(evaluation.utterances)

        print(
            f"{len(evaluation.left_out)} of {total} utterances left out: "
            f"{', '.join(f'{count} {reason}' for reason, count in reasons)}.",
            file=sys.stderr,
        )
