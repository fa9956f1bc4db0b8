"""``eqssl evaluate``: error rates of a model on a corpus."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, add_jobs, positive_int
from eqssl_speech.cli.recognition import add_recognition, apply_tuning, load_recognition
from eqssl_speech.cli.references import load_references
from eqssl_speech.error import InputError

if TYPE_CHECKING:
    from eqssl_speech.cli.recognition import Recognition
    from eqssl_speech.report.evaluation import EvaluationContext
    from eqssl_speech.tasks.evaluate.gang import Gang
    from eqssl_speech.tasks.evaluate.references import EvaluationSet
    from eqssl_speech.tasks.evaluate.scores import Bootstrap, Evaluation
    from eqssl_speech.tasks.evaluate.tuning import TunedSearch

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
  eqssl evaluate runs/finetuned corpus --lm lm.arpa --tune-on valid
  torchrun --nproc-per-node 8 -m eqssl_speech evaluate runs/finetuned corpus --out runs/finetuned/test
"""


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
    parser.add_argument(
        "--tune-on",
        metavar="SPLIT",
        help="with --lm: choose its weights on this split first, such as valid",
    )
    add_jobs(parser)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.cli.evaluate_report import report
    from eqssl_speech.report.hypotheses import HYPOTHESES_FILE_NAME, read_hypotheses
    from eqssl_speech.tasks.evaluate.comparison import compare
    from eqssl_speech.tasks.evaluate.gang import open_gang
    from eqssl_speech.tasks.evaluate.scores import Bootstrap
    from eqssl_speech.tasks.evaluate.tuning import require_tunable
    from eqssl_speech.tasks.transcribe.output import make_directory

    if options.seed < 0:
        raise InputError(f"`--seed` must be at least 0, but is {options.seed} instead.")

    bootstrap = Bootstrap(num_resamples=options.bootstrap, seed=options.seed)

    # What can fail fails before hours of work.
    theirs = None
    if options.compare is not None:
        if not options.compare.is_file():
            raise InputError(
                f"{options.compare}: there is no such file; give the summary.json of another `eqssl evaluate --out`."
            )
        theirs = read_hypotheses(options.compare.with_name(HYPOTHESES_FILE_NAME))
    if options.out is not None:
        make_directory(options.out)

    with open_gang() as gang:
        recognition = load_recognition(options)
        if options.tune_on is not None:
            require_tunable(recognition.search_options, options.tune_on, options.split)

        evaluation_set = load_references(
            options, options.split, recognition.recognizer, is_shown=gang.rank == 0
        )

        tuned = None
        if options.tune_on is not None:
            tuned = _tune(options, recognition, gang)
            recognition = apply_tuning(recognition, tuned)

        evaluation = _evaluate(evaluation_set, recognition, bootstrap, gang)

        if gang.rank == 0:
            comparison = None
            if theirs is not None:
                comparison = compare(
                    evaluation.utterances, theirs, evaluation.sources, bootstrap, options.compare
                )

            report(evaluation, _describe(options, recognition, tuned), comparison, options.out)

    return 0


def _tune(options: Namespace, recognition: Recognition, gang: Gang) -> TunedSearch:
    from eqssl_speech.console import show_progress, track_phases
    from eqssl_speech.tasks.evaluate.tuning import tune_search

    results = []

    # One process does it, and tells the others.
    if gang.rank == 0:
        evaluation_set = load_references(options, options.tune_on, recognition.recognizer)

        with show_progress() as progress:
            track = track_phases(progress)

            results.append(
                tune_search(
                    evaluation_set,
                    recognition.recognizer,
                    recognition.search_options,
                    recognition.options,
                    on_progress=lambda done, total: track("tuning the search", done, total),
                )
            )

    (tuned,) = gang.gather(results)

    return tuned


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


def _describe(
    options: Namespace, recognition: Recognition, tuned: TunedSearch | None
) -> EvaluationContext:
    from eqssl_speech.report.evaluation import EvaluationContext

    return EvaluationContext(
        model=recognition.recognizer.description,
        decoding=recognition.search.description,
        corpus=options.corpus,
        split=options.split,
        trained_on=frozenset(language for _, language in recognition.recognizer.sources),
        tuned=tuned,
    )
