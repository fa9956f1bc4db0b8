"""``summary.json`` of an evaluation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.data.corpus import DataSource
from eqssl_speech.decoding.error_rates import Confusion, ErrorCounts
from eqssl_speech.decoding.tuning import Trial
from eqssl_speech.report.evaluation_facts import FORMAT_VERSION
from eqssl_speech.report.output import SUMMARY_FILE_NAME, write_atomically
from eqssl_speech.tasks.evaluate.comparison import Comparison
from eqssl_speech.tasks.evaluate.scores import LEVEL, UNITS, Average, Evaluation, Rate, Scores
from eqssl_speech.tasks.evaluate.tuning import TunedSearch

_NUM_CONFUSIONS: Final = 20

_NUM_CONFUSIONS_OF_A_LANGUAGE: Final = 10


@final
@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """What was evaluated, and how."""

    model: str
    """The model, in words."""

    decoding: str
    """The search, in words."""

    corpus: Path
    split: str

    trained_on: frozenset[str]
    """The languages that the model was fine-tuned on."""

    tuned: TunedSearch | None = None
    """How the weights of the search were chosen, where they were."""


def to_json(
    evaluation: Evaluation, context: EvaluationContext, comparison: Comparison | None = None
) -> dict[str, object]:
    """Return what is written to ``summary.json``.

    :param evaluation: The errors.
    :param context: What was evaluated, and how.
    :param comparison: With another evaluation, where one was asked for.
    """
    described = {source.name: source for source in evaluation.sources}

    output: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "units": "rates are errors per word or character of the reference (1.0 is 100 %); intervals hold "
        f"{LEVEL:.0%} of the resamples",
        "model": context.model,
        "decoding": context.decoding,
        "corpus": str(context.corpus),
        "split": context.split,
        "bootstrap": asdict(evaluation.bootstrap) | {"level": LEVEL},
        "micro": _scores(evaluation.micro),
        "macro_languages": _average(evaluation.macro_languages),
        "macro_sources": _average(evaluation.macro_sources),
        "worst": _list_worst(evaluation),
        "languages": {
            name: _scores(scores)
            | {"in_fine_tuning": name in context.trained_on}
            | {"confusions": _confusions(evaluation, _NUM_CONFUSIONS_OF_A_LANGUAGE, name)}
            for name, scores in evaluation.by_language.items()
        },
        "domains": {name: _scores(scores) for name, scores in evaluation.by_domain.items()},
        "sources": {
            name: _describe(described[name]) | _scores(scores)
            for name, scores in evaluation.by_source.items()
        },
        "confusions": _confusions(evaluation, _NUM_CONFUSIONS, None),
        "left_out": {
            "num_by_reason": dict(Counter(u.reason for u in evaluation.left_out).most_common()),
            "utterances": [asdict(utterance) for utterance in evaluation.left_out],
            "sources": evaluation.left_out_sources,
        },
    }

    if context.tuned is not None:
        output["tuning"] = _describe_tuning(context.tuned)
    if comparison is not None:
        output["comparison"] = asdict(comparison) | {"other": str(comparison.other)}

    return output


def write_evaluation(content: Mapping[str, object], directory: Path) -> Path:
    """Write ``summary.json`` into a directory, in one move.

    :param content: What :func:`to_json` returned.
    :param directory: The directory.
    :returns: The file.
    :raises InputError: If the directory cannot be written to.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    return write_atomically(directory / SUMMARY_FILE_NAME, text.encode("utf-8", "replace"))


def find_worst(groups: Mapping[str, Scores], unit: str) -> tuple[str, Rate]:
    """Return the group with the greatest error rate, the first of equals.

    :param groups: The groups, at least one.
    :param unit: ``word`` or ``char``.
    """
    rates = {name: scores.wer if unit == "word" else scores.cer for name, scores in groups.items()}

    worst = max(rates, key=lambda name: rates[name].value)

    return worst, rates[worst]


def _list_worst(evaluation: Evaluation) -> dict[str, object]:
    groups = {"language": evaluation.by_language, "source": evaluation.by_source}

    output: dict[str, object] = {}

    for kind, scores in groups.items():
        for unit, measure in zip(UNITS, ("wer", "cer")):
            name, rate = find_worst(scores, unit)
            output[f"{kind}_by_{measure}"] = {"name": name, measure: rate.value}

    return output


def _describe(source: DataSource) -> dict[str, object]:
    return {"language": source.language, "domain": source.domain}


def _describe_tuning(tuned: TunedSearch) -> dict[str, object]:
    return {
        "split": tuned.split,
        "utterances": tuned.num_utterances,
        "greedy": _describe_trial(tuned.tuning.best_path),
        "best": _describe_trial(tuned.tuning.best),
        "trials": [_describe_trial(trial) for trial in tuned.tuning.trials],
    }


def _describe_trial(trial: Trial) -> dict[str, float]:
    return {
        "lm_weight": trial.lm_weight,
        "word_score": trial.word_score,
        "wer": trial.words.rate,
        "cer": trial.chars.rate,
    }


def _scores(scores: Scores) -> dict[str, object]:
    return {
        "utterances": scores.num_utterances,
        "audio_s": round(scores.audio_s, 3),
        "empty_share": scores.empty_share,
        "wer": _rate(scores.wer),
        "cer": _rate(scores.cer),
        "words": _counts(scores.words),
        "chars": _counts(scores.chars),
    }


def _average(average: Average) -> dict[str, object]:
    return {
        "groups": average.num_groups,
        "wer": _rate(average.wer),
        "cer": _rate(average.cer),
    }


def _rate(rate: Rate) -> dict[str, float | None]:
    return {"value": rate.value, "low": rate.low, "high": rate.high}


def _counts(counts: ErrorCounts) -> dict[str, int]:
    return {
        "reference": counts.num_reference,
        "hypothesis": counts.num_hypothesis,
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
    }


def _confusions(
    evaluation: Evaluation, num_most: int, language: str | None
) -> dict[str, dict[str, list[dict[str, object]]]]:
    return {
        name: {
            kind: [
                {"ref": c.reference, "hyp": c.hypothesis, "count": c.count}
                for c in found[:num_most]
            ]
            for kind, found in split_confusions(evaluation.list_confusions(unit, language)).items()
        }
        for unit, name in zip(UNITS, ("words", "chars"))
    }


def split_confusions(confusions: Sequence[Confusion]) -> dict[str, list[Confusion]]:
    """Tell pairs from what was only left out or put in, which would otherwise crowd them out.

    :param confusions: The confusions; their order is kept.
    :returns: ``substitutions``, ``deletions`` and ``insertions``.
    """
    return {
        "substitutions": [c for c in confusions if c.reference and c.hypothesis],
        "deletions": [c for c in confusions if not c.hypothesis],
        "insertions": [c for c in confusions if not c.reference],
    }
