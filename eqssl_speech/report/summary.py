"""Condenses runs: per data source, macro average, worst source, and the comparison of two runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eqssl_speech.error import InputError
from eqssl_speech.report.runs import (
    CONVENTIONAL_RUN,
    EQUILIBRIUM_RUN,
    Row,
    RunRecord,
    get_number,
)

_TROUBLES: Final = ("non_finite", "exploded", "dead", "bad_recordings")
"""The measures that count what went wrong in training."""


@dataclass(frozen=True)
class Measures:
    """Validation of one source or the macro average, losses in bits, and the audio trained on."""

    plain_loss: float
    """The loss at theta."""

    adapted_loss: float | None
    """The loss after K inner steps; ``None`` where validation did not adapt."""

    adaptation_gain: float | None
    """`plain_loss` - `adapted_loss` on the same batches."""

    chance: float | None
    """The loss of guessing: log2(1 + number of distractors), or the entropy of the labels of the source. A HuBERT that
    has learned nothing lies above that where sources differ, as it knows the labels of all together."""

    below_chance: float | None
    """`chance` - `plain_loss`: greater is better."""

    accuracy: float | None
    """The share of targets found among their distractors, or of labels predicted, 0 to 1."""

    majority_share: float | None
    """The share of the most frequent label, 0 to 1: the accuracy of guessing. ``None`` without labels."""

    code_perplexity: float | None

    prob_perplexity: float | None

    code_share: float | None
    """The share of the codebook that was used, 0 to 1."""

    hours: float | None
    """Audio seen in training, in hours; macro: of all sources together."""

    utterances: int | None
    """Utterances seen in training, repeats counted; macro: of all sources together."""

    non_finite: int = 0
    """Training episodes that contributed nothing, as a number in them was not finite; macro: of all sources."""

    exploded: int = 0
    """Those whose loss rose too far over the inner loop."""

    dead: int = 0
    """Those of which no recording could be read."""

    bad_recordings: int = 0
    """Recordings that could not be read in training, as the first rank has counted since the run was last started."""


@dataclass(frozen=True)
class RunSummary:
    """One run at its last validation that covers every source."""

    step: int

    config: Mapping[str, object] | None
    """The seed and the equilibrium section, where the run's ``config.yaml`` is there."""

    sources: Mapping[str, Measures]

    labels: Mapping[str, str]
    """Language and domain by source name, where the run directory lists them."""

    macro: Measures

    worst_source: str
    """The source with the highest loss at theta."""


@dataclass(frozen=True)
class Comparison:
    """Loss at theta of the equilibrium run minus that of the conventional run, in bits.

    Below zero the equilibrium run is better.
    """

    macro_plain_loss_difference: float
    """The mean over `sources`."""

    sources: Mapping[str, float]
    """By source name, for the sources that both runs have."""

    hours_ratio: float | None
    """Hours of audio the equilibrium run saw over those the conventional run saw."""


@dataclass(frozen=True)
class Summary:
    """What is written to ``summary.json``."""

    runs: Mapping[str, RunSummary]

    main_run: str
    """The equilibrium run, or else the first."""

    comparison: Comparison | None
    """``None`` unless both runs are there and share a source."""


def summarize(runs: Sequence[RunRecord]) -> Summary:
    """Condense runs.

    :param runs: The runs, at least one.

    :raises InputError: If a run has no validation that covers all of its sources.
    """
    summaries = {run.name: _summarize_run(run) for run in runs}

    main_run = EQUILIBRIUM_RUN if EQUILIBRIUM_RUN in summaries else next(iter(summaries))

    return Summary(summaries, main_run, _compare(summaries))


def _summarize_run(run: RunRecord) -> RunSummary:
    common = set.intersection(*(set(history) for history in run.valid.values()))
    if not common:
        raise InputError(
            f"{run.directory / 'metrics' / 'valid'} holds no step at which every source was "
            "validated: let the run go on to its next validation."
        )

    step = max(common)

    sources = {
        name: _measure(run, name, history[step]) for name, history in sorted(run.valid.items())
    }

    worst_source = max(sources, key=lambda name: _badness(sources[name]))

    return RunSummary(
        step, run.config, sources, _make_labels(run), _average(run, sources), worst_source
    )


def _badness(measures: Measures) -> float:
    return math.inf if math.isnan(measures.plain_loss) else measures.plain_loss


def _make_labels(run: RunRecord) -> dict[str, str]:
    labels = {}

    for name, info in run.infos.items():
        if name in run.valid:
            labels[name] = ", ".join(part for part in (info.language, info.domain) if part)

    return labels


def _measure(run: RunRecord, source: str, row: Row) -> Measures:
    plain_loss = get_number(row, "plain_loss")
    if plain_loss is None:
        raise InputError(
            f"{run.directory / 'metrics' / 'valid' / source}.jsonl has no `plain_loss` at step "
            f"{row['step']}: report a run of `eqssl pretrain`."
        )

    chance = get_number(row, "chance")

    hours, utterances = _measure_audio(run.train.get(source))

    return Measures(
        plain_loss=plain_loss,
        adapted_loss=get_number(row, "adapted_loss"),
        adaptation_gain=get_number(row, "adaptation_gain"),
        chance=chance,
        below_chance=None if chance is None else chance - plain_loss,
        accuracy=get_number(row, "accuracy"),
        majority_share=get_number(row, "majority_share"),
        code_perplexity=get_number(row, "code_perplexity"),
        prob_perplexity=get_number(row, "prob_perplexity"),
        code_share=get_number(row, "code_share"),
        hours=hours,
        utterances=utterances,
        **_count_troubles(run.train.get(source)),
    )


def _count_troubles(row: Row | None) -> dict[str, int]:
    return {name: round((row and get_number(row, name)) or 0.0) for name in _TROUBLES}


def _measure_audio(row: Row | None) -> tuple[float | None, int | None]:
    if row is None:
        return None, None

    seconds, utterances = get_number(row, "audio_seconds"), get_number(row, "utterances")

    return (
        None if seconds is None else seconds / 3600,
        None if utterances is None else round(utterances),
    )


def _average(run: RunRecord, sources: Mapping[str, Measures]) -> Measures:
    every = list(sources.values())

    if run.mixed is not None:
        hours, utterances = _measure_audio(run.mixed)
        troubles = _count_troubles(run.mixed)
    else:
        troubles = {name: sum(getattr(m, name) for m in every) for name in _TROUBLES}

        hours, total = _total(m.hours for m in every), _total(m.utterances for m in every)

        utterances = None if total is None else round(total)

    return Measures(
        plain_loss=sum(m.plain_loss for m in every) / len(every),
        adapted_loss=_mean(m.adapted_loss for m in every),
        adaptation_gain=_mean(m.adaptation_gain for m in every),
        chance=_mean(m.chance for m in every),
        below_chance=_mean(m.below_chance for m in every),
        accuracy=_mean(m.accuracy for m in every),
        majority_share=_mean(m.majority_share for m in every),
        code_perplexity=_mean(m.code_perplexity for m in every),
        prob_perplexity=_mean(m.prob_perplexity for m in every),
        code_share=_mean(m.code_share for m in every),
        hours=hours,
        utterances=utterances,
        **troubles,
    )


def _total(values: Iterable[float | None]) -> float | None:
    # An average over the sources that happen to have a value is not the average over the sources.
    total = 0.0

    for value in values:
        if value is None:
            return None

        total += value

    return total


def _mean(values: Iterable[float | None]) -> float | None:
    every = list(values)

    total = _total(every)

    return None if total is None else total / len(every)


def _compare(runs: Mapping[str, RunSummary]) -> Comparison | None:
    ours, theirs = runs.get(EQUILIBRIUM_RUN), runs.get(CONVENTIONAL_RUN)
    if ours is None or theirs is None:
        return None

    differences = {
        name: measures.plain_loss - theirs.sources[name].plain_loss
        for name, measures in ours.sources.items()
        if name in theirs.sources
    }
    if not differences:
        return None

    hours_ratio = None
    if ours.macro.hours is not None and theirs.macro.hours:
        hours_ratio = ours.macro.hours / theirs.macro.hours

    return Comparison(sum(differences.values()) / len(differences), differences, hours_ratio)
