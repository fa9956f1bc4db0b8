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
from eqssl_speech.study.statistics import Resampler, SeedCounts, UtteranceCounts, summarize
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
    extras: dict[str, dict[str, Any]] = {}

    for regime, cells in by_regime.items():
        for planned in cells:
            found = _read_cell(state, out, planned.cell, amount, section.sources)
            if found:
                counts.setdefault(regime, {})[planned.cell.seed] = found

        extras[regime] = _gather_training(state, out, cells, amount, section.sources)

    parts = {SEEN: section.seen, UNSEEN: section.unseen, "all": section.sources}
    scopes = {
        **{source: [source] for source in section.sources},
        **{name: sources for name, sources in parts.items() if sources},
    }
    resampler = Resampler()
    rows: dict[str, Any] = {}

    for regime, seeds in counts.items():
        row: dict[str, Any] = {"num_seeds": {}, "training": extras[regime]}

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
            rows[regime] = row

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


def _gather_training(
    state: StudyState, out: Path, cells: Sequence[PlannedCell], amount: str, sources: list[str]
) -> dict[str, Any]:
    """Return the lowest validation loss by source, and the updates until the error rate was below each goal."""
    losses: dict[str, list[float]] = {}
    steps: dict[int, list[float | None]] = {}

    for planned in cells:
        for source in sources:
            name = f"{FINETUNE}/{planned.cell.name}/{amount}/{source}"
            file = out / name / "metrics" / "valid.jsonl"

            if state.read(name) is None or not file.is_file():
                continue

            history = read_history(file)
            found = [get_number(row, "ctc_loss") for row in history.values()]
            known = [x for x in found if x is not None]
            if known:
                losses.setdefault(source, []).append(min(known))

            for goal in _CER_GOALS:
                reached = [
                    step
                    for step, row in history.items()
                    if (rate := get_number(row, "macro_cer")) is not None and rate <= goal
                ]
                steps.setdefault(goal, []).append(min(reached, default=None))

    return {
        "ctc_loss": {source: summarize(values) for source, values in losses.items()},
        # How many of the trainings came so far, and after how many updates those did on average.
        "goals": {
            str(goal): {
                "reached": sum(x is not None for x in values),
                "of": len(values),
                "mean_step": mean(x for x in values if x is not None) if any(values) else None,
            }
            for goal, values in steps.items()
        },
    }
