"""The tables of a study, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from eqssl_speech.study.jobs import SEEN, UNSEEN
from eqssl_speech.study.recognition_tables import list_recognition
from eqssl_speech.study.table import STUDENT, Table, count_seeds, show_difference, show_spread

COUNTINGS: Final = {
    "audio": "equal audio per update",
    "updates": "equal updates",
    "gradients": "equal gradient evaluations",
}
"""What is said of each way of counting."""


def list_tables(results: Mapping[str, Any]) -> list[Table]:
    """List all tables that there is something for."""
    tables = [_list_tuning(results["tuning"])]

    for group in results["groups"]:
        where = f"{group['family']}, {COUNTINGS[group['counting']]}"

        tables += [
            replace(table, title=f"{table.title}: {where}")
            for table in _list_group(group, results["baselines"])
        ]

    tables.append(_list_failed(results.get("failed", {})))

    return [table for table in tables if table.rows]


def render_results(results: Mapping[str, Any]) -> str:
    """Return all tables, in Markdown."""
    parts = []

    for table in list_tables(results):
        rule = ["---"] * len(table.head)
        lines = ["| " + " | ".join(cells) + " |" for cells in (table.head, rule, *table.rows)]

        parts.append("\n".join([f"**{table.title}.** {table.note}", "", *lines]))

    return "\n\n".join(parts) or "Nothing is done yet."


def _list_group(group: Mapping[str, Any], baselines: Sequence[str]) -> Iterable[Table]:
    for amount, content in group["finetuning"].items():
        yield from list_recognition(content, amount, baselines)

    yield from _list_adaptation(group["adaptation"], baselines)
    yield _list_phones(group.get("phones", {}), baselines)
    yield _list_pretraining(group["pretraining"], baselines)


def _list_adaptation(adaptation: Mapping[str, Any], baselines: Sequence[str]) -> Iterable[Table]:
    for lr in dict.fromkeys(lr for found in adaptation.values() for lr in found):
        curves = {regime: found[lr] for regime, found in adaptation.items() if lr in found}
        groups = [g for g in (SEEN, UNSEEN) if any(g in found for found in curves.values())]
        length = max(len(found[g]) for found in curves.values() for g in groups if g in found)
        steps = [k for k in (0, 1, 3, 10) if k < length - 1] + [length - 1]
        places = [(group, k) for group in groups for k in steps]

        yield Table(
            f"Adaptation with steps of {lr}",
            "The own validation loss in bits after so many steps on one source, averaged over sources; mean and "
            "standard deviation over seeds.",
            ["regime", "seeds", *(f"{group} {k}" for group, k in places)],
            [
                [
                    regime,
                    count_seeds(spread["num"] for g in groups if (spread := _at(found.get(g), 0))),
                    *(show_spread(_at(found.get(g), k), 3) for g, k in places),
                ]
                for regime, found in curves.items()
            ],
        )

        for baseline in baselines:
            yield _list_adapted_differences(
                f"Adaptation with steps of {lr}, loss against {baseline}",
                "difference",
                baseline,
                curves,
                places,
            )
            yield _list_adapted_differences(
                f"Adaptation with steps of {lr}, gain (loss before less loss after) against {baseline}",
                "gain_difference",
                baseline,
                curves,
                [(group, k) for group, k in places if k > 0],
            )


def _list_adapted_differences(
    title: str,
    key: str,
    baseline: str,
    curves: Mapping[str, Any],
    places: Sequence[tuple[str, int]],
) -> Table:
    rows = []

    for regime, found in curves.items():
        estimates = [
            (_at(found.get(f"{group}_{key}"), k) or {}).get(baseline) for group, k in places
        ]
        if any(estimates):
            seeds = count_seeds(estimate["num_seeds"] for estimate in estimates if estimate)
            rows.append([regime, seeds, *(show_difference(e, 3, 1.0) for e in estimates)])

    better = "below" if key == "difference" else "above"

    return Table(
        title,
        f"The difference in bits, seed by seed, {better} 0 where it is better; {STUDENT}",
        ["regime", "seeds", *(f"{group} {k}" for group, k in places)],
        rows,
    )


def _list_phones(phones: Mapping[str, Any], baselines: Sequence[str]) -> Table:
    layers = list(dict.fromkeys(layer for found in phones.values() for layer in found))
    rows = []

    for regime, found in phones.items():
        values = [found.get(layer, {}) for layer in layers]
        rows.append([regime, count_seeds(v["pnmi"]["num"] for v in values if v)])

        for value in values:
            rows[-1].append(show_spread(value.get("pnmi"), 3))
            differences = value.get("difference", {})
            rows[-1] += [show_difference(differences.get(b), 3, 1.0) for b in baselines]

    return Table(
        "Phones",
        "Mutual information of clusters of a layer with phones, by the entropy of the phones: mean and standard "
        f"deviation over seeds; and the difference seed by seed, above 0 where it is better; {STUDENT}",
        [
            "regime",
            "seeds",
            *(
                head
                for layer in layers
                for head in (f"layer {layer}", *(f"against {b}" for b in baselines))
            ),
        ],
        rows,
    )


def _at(values: Sequence[Any] | None, index: int) -> Any:
    return values[index] if values is not None and index < len(values) else None


def _list_pretraining(pretraining: Mapping[str, Any], baselines: Sequence[str]) -> Table:
    rows = [
        [
            regime,
            str(row["num_seeds"]),
            show_spread(row["plain_loss"], 3),
            *(
                show_difference(row.get("plain_loss_difference", {}).get(baseline), 3, 1.0)
                for baseline in baselines
            ),
            show_spread(row["adapted_loss"], 3),
            show_spread(row["accuracy"], 3),
            show_spread(row["code_share"], 2),
            show_spread(row["source_grad_cosine"], 3),
            show_spread(row["total_audio_seconds"], 1, 1 / 3600),
            show_spread(row["wall_s"], 1, 1 / 60),
        ]
        for regime, row in pretraining.items()
    ]

    return Table(
        "Pre-training",
        "At its end: validation loss in bits at theta, the difference of that seed by seed, and adapted, after the "
        "steps that `validation` of the configuration has, the same for all regimes; accuracy, and share of codes in "
        "use; the mean cosine of two sources' gradients; hours of audio and minutes, without those of a start.",
        [
            "regime",
            "seeds",
            "loss",
            *(f"against {baseline}" for baseline in baselines),
            "adapted",
            "accuracy",
            "codes",
            "cosine",
            "hours",
            "minutes",
        ],
        rows,
    )


def _list_tuning(tuning: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            row["family"],
            row["regime"],
            row["setting"],
            ", ".join(f"{v}: {'-' if x is None else f'{x:.3f}'}" for v, x in row["losses"].items()),
            _show_choice(row),
        ]
        for row in tuning
    ]

    return Table(
        "Tuning",
        "The validation loss in bits that each value came to: at theta or, of regimes with inner steps, after as many, "
        "whichever is lower; - where a run has diverged. Other ways of counting take what was chosen at equal audio.",
        ["family", "regime", "setting", "losses", "chosen"],
        rows,
    )


def _show_choice(row: Mapping[str, Any]) -> str:
    if row["chosen"] is None:
        return ""

    values = [float(value) for value in row["losses"]]
    is_at_edge = len(values) > 2 and row["chosen"] in (min(values), max(values))

    return f"{row['chosen']:g}" + " (the last that was tried)" * is_at_edge


def _list_failed(failed: Mapping[str, int]) -> Table:
    return Table(
        "Failed",
        "Jobs that are in no table, and the exit status of their last attempt; 3 is divergence.",
        ["job", "exit status"],
        [[name, str(status)] for name, status in failed.items()],
    )
