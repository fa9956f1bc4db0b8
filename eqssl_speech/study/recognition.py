"""What the recognisers of a study have come to."""

from __future__ import annotations

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

            losses.setdefault(regime, {})[planned.cell.seed] = _read_losses(
                state, out, planned.cell, amount, section.sources
            )

    parts = {SEEN: section.seen, UNSEEN: section.unseen, "all": section.sources}
    scopes = {
        **{source: [source] for source in section.sources},
        **{name: sources for name, sources in parts.items() if sources},
    }
    resampler = Resampler()
    rows: dict[str, Any] = {}

    for regime, seeds in counts.items():
        row: dict[str, Any] = {
            "num_seeds": {},
            "goals": _gather_goals(state, out, by_regime[regime], amount, section.sources),
        }

        for scope, sources in scopes.items():
            complete = _pick_complete(seeds, sources)
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

        if row["num_seeds"]:
            row["worst_cer"] = max(
                row["cer"][s]["value"] for s in section.sources if s in row["cer"]
            )
            rows[regime] = row | _compare_losses(study, losses, regime, scopes)

    return {"scopes": list(scopes), "regimes": rows}


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

        if macro[regime]:
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
    """Return the lowest validation loss by source."""
    losses = {}

    for source in sources:
        history = _read_validation(state, out, cell, amount, source)
        known = [x for row in history.values() if (x := get_number(row, "ctc_loss")) is not None]

        if known:
            losses[source] = min(known)

    return losses


def _gather_goals(
    state: StudyState, out: Path, cells: Sequence[PlannedCell], amount: str, sources: list[str]
) -> dict[str, Any]:
    """Return by goal how many trainings came so far, of how many, and after how many updates those did on average."""
    steps: dict[int, list[float | None]] = {}

    for planned in cells:
        for source in sources:
            history = _read_validation(state, out, planned.cell, amount, source)

            for goal in _CER_GOALS if history else ():
                reached = [
                    step
                    for step, row in history.items()
                    if (rate := get_number(row, "macro_cer")) is not None and rate <= goal
                ]
                steps.setdefault(goal, []).append(min(reached, default=None))

    return {
        str(goal): {
            "reached": sum(x is not None for x in values),
            "of": len(values),
            "mean_step": mean(x for x in values if x is not None) if any(values) else None,
        }
        for goal, values in steps.items()
    }


def _read_validation(
    state: StudyState, out: Path, cell: Cell, amount: str, source: str
) -> Mapping[int, Mapping[str, Any]]:
    """Return what the validations of a training that is done have found, by update."""
    name = f"{FINETUNE}/{cell.name}/{amount}/{source}"
    file = out / name / "metrics" / "valid.jsonl"

    return {} if state.read(name) is None or not file.is_file() else read_history(file)
