"""The tables of a study, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

from eqssl_speech.study.jobs import SEEN, UNSEEN
from eqssl_speech.study.statistics import MIN_NUM_SEEDS

COUNTINGS: Final = {
    "audio": "equal audio per update",
    "updates": "equal updates",
    "gradients": "equal gradient evaluations",
}
"""What is said of each way of counting."""


@final
@dataclass(frozen=True)
class Table:
    """A table."""

    title: str

    note: str
    """What the numbers are."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def list_tables(results: Mapping[str, Any]) -> list[Table]:
    """List all tables that there is something for."""
    tables = [_list_tuning(results["tuning"])]

    for group in results["groups"]:
        where = f"{group['family']}, {COUNTINGS[group['counting']]}"

        tables += [
            replace(table, title=f"{table.title}: {where}")
            for table in _list_group(group, results["baseline"])
        ]

    return [table for table in tables if table.rows]


def render_results(results: Mapping[str, Any]) -> str:
    """Return all tables, in Markdown."""
    parts = []

    for table in list_tables(results):
        rule = ["---"] * len(table.head)
        lines = ["| " + " | ".join(cells) + " |" for cells in (table.head, rule, *table.rows)]

        parts.append("\n".join([f"**{table.title}.** {table.note}", "", *lines]))

    return "\n\n".join(parts) or "Nothing is done yet."


def _list_group(group: Mapping[str, Any], baseline: str) -> Iterable[Table]:
    for amount, content in group["finetuning"].items():
        for unit in ("cer", "wer"):
            yield _list_rates(content, unit, amount)
            yield _list_differences(content, unit, amount, baseline)

        yield _list_training(content, amount)

    yield from _list_adaptation(group["adaptation"], baseline)
    yield _list_phones(group["phones"], baseline)
    yield _list_pretraining(group["pretraining"])


def _list_rates(content: Mapping[str, Any], unit: str, amount: str) -> Table:
    rows = [
        [
            regime,
            _count_seeds(row["num_seeds"].values()),
            *(_show_interval(row[unit].get(scope)) for scope in content["scopes"]),
        ]
        for regime, row in content["regimes"].items()
    ]

    return Table(
        f"{unit.upper()}, {amount}",
        "In percent, with 95 % intervals over seeds and utterances; of one seed, they say nothing about seeds.",
        ["regime", "seeds", *content["scopes"]],
        rows,
    )


def _list_differences(content: Mapping[str, Any], unit: str, amount: str, baseline: str) -> Table:
    key = f"{unit}_difference"
    rows = [
        [
            regime,
            _count_seeds(x["num_seeds"] for x in row[key].values()),
            *(_show_difference(row[key].get(scope)) for scope in content["scopes"]),
        ]
        for regime, row in content["regimes"].items()
        if key in row
    ]

    return Table(
        f"{unit.upper()} against {baseline}, {amount}",
        "The difference in points, below 0 where it is better, seed by seed and on the same draws of utterances; "
        f"* marks intervals without 0, of at least {MIN_NUM_SEEDS} seeds.",
        ["regime", "seeds", *content["scopes"]],
        rows,
    )


def _list_training(content: Mapping[str, Any], amount: str) -> Table:
    goals = list(
        dict.fromkeys(
            goal for row in content["regimes"].values() for goal in row["training"]["goals"]
        )
    )
    sources = [s for s in content["scopes"] if s not in (SEEN, UNSEEN, "all")]
    rows = []

    for regime, row in content["regimes"].items():
        training = row["training"]
        cells = [_show_spread(training["ctc_loss"].get(source), 2) for source in sources]

        for goal in goals:
            reached = training["goals"].get(goal)
            step = (
                ""
                if not reached or reached["mean_step"] is None
                else f", {reached['mean_step']:.0f}"
            )
            cells.append(f"{reached['reached']}/{reached['of']}{step}" if reached else "")

        rows.append([regime, *cells])

    return Table(
        f"Fine-tuning, {amount}",
        "The lowest validation loss in nats a label; how many trainings came below a CER, and their mean number of "
        "updates then.",
        ["regime", *sources, *(f"CER {goal}" for goal in goals)],
        rows,
    )


def _list_adaptation(adaptation: Mapping[str, Any], baseline: str) -> Iterable[Table]:
    for lr in dict.fromkeys(lr for found in adaptation.values() for lr in found):
        curves = {regime: found[lr] for regime, found in adaptation.items() if lr in found}
        groups = [g for g in (SEEN, UNSEEN) if any(g in found for found in curves.values())]
        length = max(len(found[g]) for found in curves.values() for g in groups if g in found)
        steps = [k for k in (0, 1, 3, 10) if k < length - 1] + [length - 1]
        head = ["regime", *(f"{group} {k}" for group in groups for k in steps)]

        yield Table(
            f"Adaptation with steps of {lr}",
            "The own validation loss in bits after so many steps on one source, averaged over sources; mean and "
            "standard deviation over seeds.",
            head,
            [
                [
                    regime,
                    *(_show_spread(_at(found.get(g), k), 3) for g in groups for k in steps),
                ]
                for regime, found in curves.items()
            ],
        )
        yield Table(
            f"Adaptation with steps of {lr}, against {baseline}",
            "The difference in bits, seed by seed, below 0 where it is better, with the 95 % interval of its mean; * "
            f"marks intervals without 0, of at least {MIN_NUM_SEEDS} seeds. Only models that predict the same labels "
            "can be compared so: wav2vec 2.0 makes its own.",
            head,
            [
                [
                    regime,
                    *(
                        _show_difference(_at(found.get(f"{g}_difference"), k), 3, 1.0)
                        for g in groups
                        for k in steps
                    ),
                ]
                for regime, found in curves.items()
                if any(f"{g}_difference" in found for g in groups)
            ],
        )


def _list_phones(phones: Mapping[str, Any], baseline: str) -> Table:
    layers = list(dict.fromkeys(layer for found in phones.values() for layer in found))
    head = ["regime"]
    for layer in layers:
        head += [f"layer {layer}", f"against {baseline}"]

    rows = []

    for regime, found in phones.items():
        row = [regime]
        for layer in layers:
            values = found.get(layer, {})
            row.append(_show_spread(values.get("pnmi"), 3))
            row.append(_show_difference(values.get("difference"), 3, 1.0))
        rows.append(row)

    return Table(
        "Phones",
        "Mutual information of clusters of a layer with phones, by the entropy of the phones: mean and standard "
        "deviation over seeds; and the difference, above 0 where it is better, as for adaptation.",
        head,
        rows,
    )


def _at(values: Sequence[Any] | None, index: int) -> Any:
    return values[index] if values is not None and index < len(values) else None


def _list_pretraining(pretraining: Mapping[str, Any]) -> Table:
    rows = [
        [
            regime,
            str(row["num_seeds"]),
            _show_spread(row["plain_loss"], 3),
            _show_spread(row["adapted_loss"], 3),
            _show_spread(row["accuracy"], 3),
            _show_spread(row["code_share"], 2),
            _show_spread(row["source_grad_cosine"], 3),
            _show_spread(row["total_audio_seconds"], 1, 1 / 3600),
            _show_spread(row["wall_s"], 1, 1 / 60),
        ]
        for regime, row in pretraining.items()
    ]

    return Table(
        "Pre-training",
        "At its end: validation loss in bits at theta and adapted, accuracy, and share of codes in use; the mean "
        "cosine of two sources' gradients, hours of audio, and minutes.",
        ["regime", "seeds", "loss", "adapted", "accuracy", "codes", "cosine", "hours", "minutes"],
        rows,
    )


def _list_tuning(tuning: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            row["family"],
            row["regime"],
            row["setting"],
            ", ".join(f"{v}: {'-' if x is None else f'{x:.3f}'}" for v, x in row["losses"].items()),
            f"{row['chosen']:g}",
        ]
        for row in tuning
    ]

    return Table(
        "Tuning",
        "The validation loss in bits that each value came to, at theta or after the regime's own inner steps, "
        "whichever is lower. Other ways of counting take what was chosen at equal audio.",
        ["family", "regime", "setting", "losses", "chosen"],
        rows,
    )


def _count_seeds(numbers: Iterable[int]) -> str:
    counts = sorted(set(numbers))

    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _show_interval(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return ""

    return f"{100 * rate['value']:.1f} ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def _show_difference(rate: Mapping[str, Any] | None, digits: int = 1, scale: float = 100.0) -> str:
    if rate is None:
        return ""

    mark = "*" if rate["is_certain"] else ""

    if rate["num_seeds"] < 2 and rate["low"] == rate["high"]:
        return f"{scale * rate['value']:+.{digits}f}"

    value, low, high = (scale * rate[key] for key in ("value", "low", "high"))

    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}){mark}"


def _show_spread(spread: Mapping[str, Any] | None, digits: int, scale: float = 1.0) -> str:
    if spread is None:
        return ""

    if spread["mean"] is None:
        return f"diverged in {spread['num_infinite']} of {spread['num']}"

    sd = "" if spread["sd"] is None else f" ± {scale * spread['sd']:.{digits}f}"

    return f"{scale * spread['mean']:.{digits}f}{sd}"
