"""What a study has come to so far: ``results.json``, of all that is done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from eqssl_speech.error import InputError
from eqssl_speech.report.adaptation import read_adaptation
from eqssl_speech.report.output import write_atomically
from eqssl_speech.report.runs import get_number, read_history
from eqssl_speech.study.cells import PlannedCell
from eqssl_speech.study.jobs import (
    PRETRAIN,
    SEEN,
    UNSEEN,
    name_adaptation,
    name_phones,
    name_tuning,
)
from eqssl_speech.study.planner import Planner
from eqssl_speech.study.recognition import gather_recognition
from eqssl_speech.study.state import StudyState
from eqssl_speech.study.statistics import compare_seeds, summarize
from eqssl_speech.study.study_file import Study
from eqssl_speech.tasks.labels.report import read_report

RESULTS_FILE: Final = "results.json"

_VERSION: Final = 2


def write_results(study: Study, planner: Planner, state: StudyState, out: Path) -> dict[str, Any]:
    """Gather what is there, and write it.

    :param study: The study.
    :param planner: Its planner.
    :param state: The records of its jobs, none of which is stale.
    :param out: The directory of the study.
    :returns: What is written: a list of groups of cells that can be compared with each other, and what was tuned.
    :raises InputError: If a file of a result is damaged, or they cannot be written.
    """
    cells = planner.list_cells()
    groups: list[dict[str, Any]] = []

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
        own = [
            p for p in members if p.cell.counting == counting and planner.num_inner_steps(p.cell)
        ]

        if any(group["family"] == family for group in groups):
            # Without any, it says again what another way of counting has said.
            has_more = any(state.read(f"{PRETRAIN}/{p.cell.name}") for p in own)
        else:
            has_more = any(
                p.cell.family == family and _has_model(planner, state, p) for p in members
            )

        if has_more:
            groups.append(_gather(study, planner, state, out, family, counting, members))

    results = {
        "version": _VERSION,
        "baselines": study.references,
        "groups": groups,
        "tuning": _gather_tuning(study, planner, state),
        "failed": {
            job.name: status
            for job in planner.list_jobs()
            if (status := state.find_failure(job.name)) is not None
        },
    }

    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / RESULTS_FILE, text.encode())

    return results


def _has_model(planner: Planner, state: StudyState, planned: PlannedCell) -> bool:
    name = planner.find_pretrained(planned.cell)

    return name is None or state.read(name) is not None


def _gather(
    study: Study,
    planner: Planner,
    state: StudyState,
    out: Path,
    family: str,
    counting: str,
    members: list[PlannedCell],
) -> dict[str, Any]:
    by_regime: dict[str, list[PlannedCell]] = {}
    for planned in members:
        by_regime.setdefault(planned.cell.regime, []).append(planned)

    def pick(amount: str | None = None) -> dict[str, list[PlannedCell]]:
        """Leave out what was once made of a cell, and now is no part of the study."""
        picked = {
            regime: [p for p in cells if (p.adapt if amount is None else amount in p.labels)]
            for regime, cells in by_regime.items()
        }

        return {regime: cells for regime, cells in picked.items() if cells}

    amounts = list(dict.fromkeys(name for planned in members for name in planned.labels))

    return {
        "family": family,
        "counting": counting,
        "pretraining": _gather_pretraining(study, planner, state, out, by_regime),
        "adaptation": _gather_adaptation(study, state, out, pick()),
        "phones": _gather_phones(study, state, out, pick()),
        "finetuning": {
            amount: gather_recognition(study, state, out, amount, pick(amount))
            for amount in amounts
        },
    }


def _gather_pretraining(
    study: Study,
    planner: Planner,
    state: StudyState,
    out: Path,
    by_regime: Mapping[str, list[PlannedCell]],
) -> dict[str, dict[str, Any]]:
    runs: dict[str, dict[int, dict[str, float | None]]] = {}

    for regime, cells in by_regime.items():
        for planned in cells:
            name = planner.find_pretrained(planned.cell)
            record = None if name is None else state.read(name)

            if name is not None and record is not None:
                row = _read_pretraining(out / name / "metrics")
                runs.setdefault(regime, {})[planned.cell.seed] = row | {"wall_s": record["wall_s"]}

    result: dict[str, dict[str, Any]] = {}

    for regime, by_seed in runs.items():
        keys = next(iter(by_seed.values()))
        result[regime] = {
            "num_seeds": len(by_seed),
            **{key: summarize(row[key] for row in by_seed.values()) for key in keys},
        }

    losses = {
        regime: {seed: x for seed, row in by_seed.items() if (x := row["plain_loss"]) is not None}
        for regime, by_seed in runs.items()
    }

    for regime, found in result.items():
        if _can_compare(study, by_regime, regime):
            found["plain_loss_difference"] = _compare(study, losses, regime)

    return result


def _read_pretraining(metrics: Path) -> dict[str, float | None]:
    row: dict[str, float | None] = {}

    for split, keys in (
        ("valid", ("plain_loss", "adapted_loss", "adaptation_gain", "accuracy", "code_share")),
        ("train", ("total_audio_seconds", "inner_grad_norm")),
    ):
        history = read_history(metrics / f"{split}.jsonl")
        last = history[max(history)] if history else {}
        row |= {key: get_number(last, key) for key in keys}

    cosines = [
        get_number(line, "source_grad_cosine")
        for line in read_history(metrics / "train.jsonl").values()
    ]
    known = [x for x in cosines if x is not None and math.isfinite(x)]
    row["source_grad_cosine"] = mean(known) if known else None

    return row


def _can_compare(study: Study, by_regime: Mapping[str, list[PlannedCell]], regime: str) -> bool:
    """Say whether the loss of a regime is comparable to others': those of models that predict the same labels are, and
    those of models that make their own are not."""
    families = {planned.cell.family for planned in by_regime[regime]}

    return all(study.pretraining[family].labels is not None for family in families)


def _compare(
    study: Study, values: Mapping[str, Mapping[int, float]], regime: str
) -> dict[str, dict[str, Any] | None]:
    """Compare a number of a regime with that of each baseline; numbers are by regime and seed."""
    return {
        baseline: compare_seeds(values[regime], values[baseline])
        for baseline in study.references
        if baseline in values and baseline != regime
    }


def _gather_adaptation(
    study: Study, state: StudyState, out: Path, by_regime: Mapping[str, list[PlannedCell]]
) -> dict[str, dict[str, Any]]:
    """Return the curves by regime, step size, and whether the sources were heard; with the differences to
    each baseline's, of the loss and of the gain (the loss before the first step less that after) at each step."""
    result: dict[str, dict[str, Any]] = {}

    for lr in [] if study.adaptation is None else study.adaptation.lrs:
        for group in (SEEN, UNSEEN):
            curves: dict[str, dict[int, list[float]]] = {}

            for regime, cells in by_regime.items():
                for planned in cells:
                    name = name_adaptation(planned.cell, group, lr)

                    if state.read(name) is not None:
                        losses = read_adaptation(out / name).values()
                        # The macro average over sources, at each step.
                        average = [mean(at) for at in zip(*losses, strict=True)]
                        curves.setdefault(regime, {})[planned.cell.seed] = average

            for regime, by_seed in curves.items():
                found = result.setdefault(regime, {}).setdefault(f"{lr:g}", {})
                found[group] = [summarize(at) for at in zip(*by_seed.values(), strict=True)]

                if not _can_compare(study, by_regime, regime):
                    continue

                for key, pick in (("difference", _pick), ("gain_difference", _pick_gain)):
                    found[f"{group}_{key}"] = [
                        _compare(study, {r: pick(c, k) for r, c in curves.items()}, regime)
                        for k in range(len(found[group]))
                    ]

    return result


def _gather_phones(
    study: Study, state: StudyState, out: Path, by_regime: Mapping[str, list[PlannedCell]]
) -> dict[str, dict[str, Any]]:
    """Return the mutual information with phones by regime and layer, with the differences to the baselines'."""
    result: dict[str, dict[str, Any]] = {}

    for layer in [] if study.phones is None else study.phones.layers:
        values: dict[str, dict[int, float]] = {}

        for regime, cells in by_regime.items():
            for planned in cells:
                name = name_phones(planned.cell, layer)

                if state.read(name) is not None:
                    assert study.phones is not None
                    phones = read_report(out / name).sources[study.phones.source].phones
                    assert phones is not None
                    values.setdefault(regime, {})[planned.cell.seed] = phones.pnmi

        for regime, by_seed in values.items():
            result.setdefault(regime, {})[str(layer)] = {
                "pnmi": summarize(by_seed.values()),
                "difference": _compare(study, values, regime),
            }

    return result


def _pick(curves: Mapping[int, Sequence[float]], step: int) -> dict[int, float]:
    return {seed: curve[step] for seed, curve in curves.items() if step < len(curve)}


def _pick_gain(curves: Mapping[int, Sequence[float]], step: int) -> dict[int, float]:
    return {seed: curve[0] - curve[step] for seed, curve in curves.items() if step < len(curve)}


def _gather_tuning(study: Study, planner: Planner, state: StudyState) -> list[dict[str, Any]]:
    rows = []

    for family, regime in dict.fromkeys(
        (p.cell.family, p.cell.regime) for p in planner.list_cells()
    ):
        how = study.regimes[regime]
        if how.is_random or how.is_start:
            continue

        for name, values in planner.list_tuned(regime).items():
            losses = {
                v: planner.read_tuning(family, regime, name, v)
                for v in values
                if state.read(name_tuning(family, regime, name, v)) is not None
            }
            if not losses:
                continue

            best = min(losses, key=lambda v: losses[v])
            is_known = len(losses) == len(values) and math.isfinite(losses[best])

            rows.append(
                {
                    "family": family,
                    "regime": regime,
                    "setting": name,
                    "losses": {
                        f"{v:g}": x if math.isfinite(x) else None for v, x in losses.items()
                    },
                    # None before all are tried, or if all have diverged.
                    "chosen": best if is_known else None,
                }
            )

    return rows


def read_results(out: Path) -> dict[str, Any]:
    """Read what :func:`write_results` has written.

    :raises InputError: If there is nothing.
    """
    file = out / RESULTS_FILE

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{file}: cannot be read; run `eqssl study ... --tables` first.") from None

    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise InputError(f"{file}: is of another version; run `eqssl study ... --tables` first.")

    return content
