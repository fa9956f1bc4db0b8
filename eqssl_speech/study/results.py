"""What a study has come to so far: ``results.json``, of all that is done."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file
from eqssl_speech.report.adaptation import read_adaptation
from eqssl_speech.report.hypotheses import HYPOTHESES_FILE_NAME, read_hypotheses
from eqssl_speech.report.runs import get_number, read_history
from eqssl_speech.study.cells import Cell, PlannedCell
from eqssl_speech.study.jobs import (
    FINETUNE,
    PRETRAIN,
    SEEN,
    TEST,
    UNSEEN,
    Planner,
    name_adaptation,
)
from eqssl_speech.study.state import StudyState
from eqssl_speech.study.statistics import Estimate, Resampler, UtteranceCounts
from eqssl_speech.study.study_file import Study

RESULTS_FILE: Final = "results.json"

_UNITS: Final = {"cer": 1, "wer": 0}

_CER_GOALS: Final = (90, 80, 70, 60, 50)
"""Whose first update is looked for, in percent."""


def write_results(study: Study, planner: Planner, state: StudyState, out: Path) -> dict[str, Any]:
    """Gather what is there, and write it.

    :param study: The study.
    :param planner: Its planner.
    :param state: The records of its jobs, none of which is stale.
    :param out: The directory of the study.
    :returns: What is written: a list of groups of cells that can be compared with each other, and what was tuned.
    :raises InputError: If a file of a result is damaged.
    """
    cells = planner.list_cells()
    groups = []

    for family, counting in dict.fromkeys((p.cell.family, p.cell.counting) for p in cells):
        members = [
            p
            for p in cells
            if study.regimes[p.cell.regime].is_random
            or (
                p.cell.family == family
                # Conventional training is the same by any count.
                and (p.cell.counting == counting or planner.num_inner_steps(p.cell) == 0)
            )
        ]
        groups.append(_gather(study, state, out, family, counting, members))

    results = {
        "baseline": _find_baseline(study),
        "groups": groups,
        "tuning": _gather_tuning(study, planner),
    }

    out.mkdir(parents=True, exist_ok=True)
    replace_file(
        out / RESULTS_FILE,
        (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode(),
    )

    return results


def _gather(
    study: Study,
    state: StudyState,
    out: Path,
    family: str,
    counting: str,
    members: list[PlannedCell],
) -> dict[str, Any]:
    by_regime: dict[str, list[PlannedCell]] = {}
    for planned in members:
        by_regime.setdefault(planned.cell.regime, []).append(planned)

    amounts = list(dict.fromkeys(name for planned in members for name in planned.labels))

    return {
        "family": family,
        "counting": counting,
        "pretraining": {
            regime: row
            for regime, cells in by_regime.items()
            if (row := _gather_pretraining(state, out, cells)) is not None
        },
        "adaptation": {
            regime: row
            for regime, cells in by_regime.items()
            if (row := _gather_adaptation(study, state, out, cells))
        },
        "finetuning": {
            amount: _gather_finetuning(study, state, out, amount, by_regime) for amount in amounts
        },
    }


def _gather_pretraining(
    state: StudyState, out: Path, cells: Sequence[PlannedCell]
) -> dict[str, Any] | None:
    rows = []

    for planned in cells:
        name = f"{PRETRAIN}/{planned.cell.name}"
        record = state.read(name)
        if record is None:
            continue

        row: dict[str, float | None] = {"wall_s": record["wall_s"]}

        for split, keys in (
            ("valid", ("plain_loss", "adapted_loss", "adaptation_gain", "accuracy", "code_share")),
            ("train", ("total_audio_seconds", "source_grad_cosine", "inner_grad_norm")),
        ):
            history = read_history(out / name / "metrics" / f"{split}.jsonl")
            last = history[max(history)] if history else {}
            row |= {key: get_number(last, key) for key in keys}

        cosines = [
            get_number(line, "source_grad_cosine")
            for line in read_history(out / name / "metrics" / "train.jsonl").values()
        ]
        known = [x for x in cosines if x is not None and math.isfinite(x)]
        row["source_grad_cosine"] = mean(known) if known else None

        rows.append(row)

    if not rows:
        return None

    return {"num_seeds": len(rows), **{key: _spread(r[key] for r in rows) for key in rows[0]}}


def _gather_adaptation(
    study: Study, state: StudyState, out: Path, cells: Sequence[PlannedCell]
) -> dict[str, dict[str, Any]]:
    """Return the curves by step size, and by whether the sources were heard."""
    result: dict[str, dict[str, Any]] = {}

    for lr in [] if study.adaptation is None else study.adaptation.lrs:
        for group in (SEEN, UNSEEN):
            curves = []

            for planned in cells:
                name = name_adaptation(planned.cell, group, lr)

                if state.read(name) is not None:
                    losses = read_adaptation(out / name).values()
                    # The macro average over sources, at each step.
                    curves.append([mean(at) for at in zip(*losses, strict=True)])

            if curves:
                result.setdefault(f"{lr:g}", {})[group] = [
                    _spread(at) for at in zip(*curves, strict=True)
                ]

    return result


def _gather_finetuning(
    study: Study,
    state: StudyState,
    out: Path,
    amount: str,
    by_regime: Mapping[str, list[PlannedCell]],
) -> dict[str, Any]:
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
    baseline, resampler = _find_baseline(study), Resampler()
    rows: dict[str, Any] = {}

    for regime, seeds in counts.items():
        row: dict[str, Any] = {"num_seeds": {}, "training": extras[regime]}

        for scope, sources in scopes.items():
            complete = {s: c for s, c in seeds.items() if set(sources) <= set(c)}
            if not complete:
                continue

            row["num_seeds"][scope] = len(complete)
            others = {s: c for s, c in counts.get(baseline, {}).items() if set(sources) <= set(c)}

            for unit, index in _UNITS.items():
                rate = resampler.rate(complete, sources, index)
                row.setdefault(unit, {})[scope] = _to_json(rate)

                if regime != baseline and set(others) & set(complete):
                    difference = resampler.difference(complete, others, sources, index)
                    row.setdefault(f"{unit}_difference", {})[scope] = _to_json(difference)

        if row["num_seeds"]:
            row["worst_cer"] = max(
                row["cer"][s]["value"] for s in section.sources if s in row["cer"]
            )
            rows[regime] = row

    return {"scopes": list(scopes), "regimes": rows}


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
        "ctc_loss": {source: _spread(values) for source, values in losses.items()},
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


def _gather_tuning(study: Study, planner: Planner) -> list[dict[str, Any]]:
    rows = []

    for family, regime in dict.fromkeys(
        (p.cell.family, p.cell.regime) for p in planner.list_cells()
    ):
        if study.regimes[regime].is_random:
            continue

        for name, values in planner.list_tuned(regime).items():
            losses = {v: planner.read_tuning(family, regime, name, v) for v in values}

            if all(math.isinf(x) for x in losses.values()):
                continue

            rows.append(
                {
                    "family": family,
                    "regime": regime,
                    "setting": name,
                    "losses": {
                        f"{v:g}": x if math.isfinite(x) else None for v, x in losses.items()
                    },
                    "chosen": min(losses, key=lambda v: losses[v]),
                }
            )

    return rows


def _find_baseline(study: Study) -> str:
    return study.baseline or next(iter(study.regimes))


def _spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Return the mean and the standard deviation; none of both where a run has diverged."""
    known = [x for x in values if x is not None]
    if not known:
        return None

    num_infinite = sum(not math.isfinite(x) for x in known)

    return {
        "mean": None if num_infinite else mean(known),
        "sd": None if num_infinite or len(known) < 2 else stdev(known),
        "num": len(known),
        "num_infinite": num_infinite,
    }


def _to_json(estimate: Estimate) -> dict[str, Any]:
    return {**asdict(estimate), "is_certain": estimate.is_certain}


def read_results(out: Path) -> dict[str, Any]:
    """Read what :func:`write_results` has written.

    :raises InputError: If there is nothing.
    """
    file = out / RESULTS_FILE

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{file}: cannot be read; run `eqssl study ... --tables` first.") from None

    assert isinstance(content, dict)

    return content
