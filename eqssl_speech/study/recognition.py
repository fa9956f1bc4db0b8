"""What the recognisers of a study have come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from eqssl_speech.report.hypotheses import HYPOTHESES_FILE_NAME, read_hypotheses
from eqssl_speech.report.runs import get_number, read_history
from eqssl_speech.study.cells import Cell, PlannedCell
from eqssl_speech.study.jobs import FINETUNE, SEEN, TEST, UNSEEN
from eqssl_speech.study.state import StudyState
from eqssl_speech.study.statistics import (
    Resampler,
    SeedCounts,
    UtteranceCounts,
    compare_seeds,
    summarize,
)
from eqssl_speech.study.study_file import Study

_UNITS: Final = {"cer": 1, "wer": 0}

_CER_GOALS: Final = (90, 80, 70, 60, 50)
"""Whose first update is looked for, in percent."""


def gather_recognition(
    study: Study,
    state: StudyState,
    out: Path,
    amount: str,
    by_regime: Mapping[str, list[PlannedCell]],
) -> dict[str, Any]:
    """Gather the error rates of models that were fine-tuned on one amount of labels, and how their training went.

    :param study: The study, which has a section ``finetuning``.
    :param state: The records of its jobs.
    :param out: The directory of the study.
    :param amount: The amount of labels, by its name.
    :param by_regime: The cells that are compared.
    :raises InputError: If a file of a result is damaged.
    """
    section = study.finetuning
    assert section is not None

    counts: dict[str, dict[int, dict[str, UtteranceCounts]]] = {}
    losses: dict[str, dict[int, dict[str, float]]] = {}

    for regime, cells in by_regime.items():
        for planned in cells:
            found = _read_cell(state, out, planned.cell, amount, section.sources)
            if found:
                counts.setdefault(regime, {})[planned.cell.seed] = found

            lowest = _read_losses(state, out, planned.cell, amount, section.sources)
            if lowest:
                losses.setdefault(regime, {})[planned.cell.seed] = lowest

    parts = {SEEN: section.seen, UNSEEN: section.unseen, "all": section.sources}
    scopes = {
        **{source: [source] for source in section.sources},
        **{name: sources for name, sources in parts.items() if sources},
    }
    resampler = Resampler()
    rows: dict[str, Any] = {}

    for regime in counts:
        row = _compare_rates(study, resampler, counts, regime, scopes)

        if row["num_seeds"]:
            if "all" in row["num_seeds"]:
                row["worst_cer"] = max(row["cer"][source]["value"] for source in section.sources)

            rows[regime] = {
                **row,
                **_compare_losses(study, losses, regime, scopes),
                "goals": _gather_goals(state, out, by_regime[regime], amount, section.sources),
            }

    return {"scopes": list(scopes), "regimes": rows}


def _compare_rates(
    study: Study,
    resampler: Resampler,
    counts: Mapping[str, SeedCounts],
    regime: str,
    scopes: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return the error rates of a regime by scope, their numbers of seeds, and the differences to the baselines'."""
    row: dict[str, Any] = {"num_seeds": {}}

    for scope, sources in scopes.items():
        complete = _pick_complete(counts[regime], sources)
        if not complete:
            continue

        row["num_seeds"][scope] = len(complete)

        for unit, index in _UNITS.items():
            rate = resampler.rate(complete, sources, index)
            row.setdefault(unit, {})[scope] = rate.to_json()

            for baseline in study.references:
                others = _pick_complete(counts.get(baseline, {}), sources)

                if regime != baseline and set(others) & set(complete):
                    difference = resampler.difference(complete, others, sources, index)
                    differences = row.setdefault(f"{unit}_difference", {})
                    differences.setdefault(baseline, {})[scope] = difference.to_json()

    return row


def _pick_complete(seeds: SeedCounts, sources: Sequence[str]) -> SeedCounts:
    """Return the seeds of which there are all sources."""
    return {seed: counts for seed, counts in seeds.items() if set(sources) <= set(counts)}


def _read_cell(
    state: StudyState, out: Path, cell: Cell, amount: str, sources: list[str]
) -> dict[str, UtteranceCounts]:
    found = {}

    for source in sources:
        name = f"{TEST}/{cell.name}/{amount}/{source}"

        if state.read(name) is not None:
            found[source] = UtteranceCounts.of(read_hypotheses(out / name / HYPOTHESES_FILE_NAME))

    return found


def _compare_losses(
    study: Study,
    losses: Mapping[str, Mapping[int, Mapping[str, float]]],
    regime: str,
    scopes: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return the lowest validation loss of a regime by scope, and the differences to each baseline's."""
    spreads: dict[str, Any] = {}
    differences: dict[str, dict[str, Any]] = {}

    for scope, sources in scopes.items():
        macro = {r: _average(by_seed, sources) for r, by_seed in losses.items()}

        if macro.get(regime):
            spreads[scope] = summarize(macro[regime].values())

            for baseline in study.references:
                if baseline != regime and baseline in macro:
                    found = compare_seeds(macro[regime], macro[baseline])
                    if found is not None:
                        differences.setdefault(baseline, {})[scope] = found

    return {"ctc_loss": spreads, "ctc_loss_difference": differences}


def _average(
    by_seed: Mapping[int, Mapping[str, float]], sources: Sequence[str]
) -> dict[int, float]:
    """Return the macro average of the seeds of which there are all sources."""
    return {
        seed: mean(values[source] for source in sources)
        for seed, values in by_seed.items()
        if set(sources) <= set(values)
    }


def _read_losses(
    state: StudyState, out: Path, cell: Cell, amount: str, sources: list[str]
) -> dict[str, float]:
    """Return the lowest validation loss by source; infinite if there never was a finite one."""
    losses = {}

    for source in sources:
        history = _read_validation(state, out, cell, amount, source)
        known = [x for row in history.values() if (x := get_number(row, "ctc_loss")) is not None]

        if known:
            losses[source] = min(filter(math.isfinite, known), default=math.inf)

    return losses


def _gather_goals(
    state: StudyState, out: Path, cells: Sequence[PlannedCell], amount: str, sources: list[str]
) -> dict[str, Any]:
    """Return by goal how many trainings came to it and stayed there, of how many, and their mean number of updates
    then."""
    steps: dict[int, list[float | None]] = {}

    for planned in cells:
        for source in sources:
            history = _read_validation(state, out, planned.cell, amount, source)

            for goal in _CER_GOALS if history else ():
                steps.setdefault(goal, []).append(_find_step(history, goal))

    return {
        str(goal): {
            "reached": sum(x is not None for x in values),
            "of": len(values),
            "mean_step": mean(x for x in values if x is not None) if any(values) else None,
        }
        for goal, values in steps.items()
    }


def _find_step(history: Mapping[int, Mapping[str, Any]], goal: float) -> int | None:
    """Find the first update from which on the error rate is not above a goal: on the plateau of blanks, rates fall by
    chance, and rise again."""
    found = None

    for step in sorted(history, reverse=True):
        rate = get_number(history[step], "macro_cer")
        if rate is None or rate > goal:
            break

        found = step

    return found


def _read_validation(
    state: StudyState, out: Path, cell: Cell, amount: str, source: str
) -> Mapping[int, Mapping[str, Any]]:
    """Return what the validations of a training that is done have found, by update."""
    name = f"{FINETUNE}/{cell.name}/{amount}/{source}"
    file = out / name / "metrics" / "valid.jsonl"

    return {} if state.read(name) is None or not file.is_file() else read_history(file)
