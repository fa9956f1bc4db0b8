"""The tables of a study's recognisers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eqssl_speech.study.statistics import MIN_NUM_SEEDS
from eqssl_speech.study.table import (
    STUDENT,
    Table,
    count_seeds,
    show_difference,
    show_interval,
    show_spread,
)


def list_recognition(
    content: Mapping[str, Any], amount: str, baselines: Sequence[str]
) -> Iterable[Table]:
    """List what :func:`~eqssl_speech.study.recognition.gather_recognition` has gathered of one amount of labels."""
    for unit in ("cer", "wer"):
        yield _list_rates(content, unit, amount)

        for baseline in baselines:
            yield _list_differences(content, unit, amount, baseline)

    yield _list_losses(content, amount)

    for baseline in baselines:
        yield _list_loss_differences(content, amount, baseline)

    yield _list_goals(content, amount)


def _list_rates(content: Mapping[str, Any], unit: str, amount: str) -> Table:
    rows = [
        [
            regime,
            count_seeds(row["num_seeds"].values()),
            *(show_interval(row[unit].get(scope)) for scope in content["scopes"]),
            *([_show_worst(row)] if unit == "cer" else []),
        ]
        for regime, row in content["regimes"].items()
    ]

    return Table(
        f"{unit.upper()}, {amount}",
        "In percent, with 95 % intervals over seeds and utterances; of one seed, they say nothing about seeds.",
        ["regime", "seeds", *content["scopes"], *(["worst"] if unit == "cer" else [])],
        rows,
    )


def _show_worst(row: Mapping[str, Any]) -> str:
    return f"{100 * row['worst_cer']:.1f}" if "worst_cer" in row else ""


def _list_differences(content: Mapping[str, Any], unit: str, amount: str, baseline: str) -> Table:
    rows = [
        [
            regime,
            count_seeds(x["num_seeds"] for x in found.values()),
            *(show_difference(found.get(scope)) for scope in content["scopes"]),
        ]
        for regime, row in content["regimes"].items()
        if (found := row.get(f"{unit}_difference", {}).get(baseline))
    ]

    return Table(
        f"{unit.upper()} against {baseline}, {amount}",
        "The difference in points, below 0 where it is better, seed by seed and on the same draws of utterances; "
        f"* marks intervals without 0, of at least {MIN_NUM_SEEDS} seeds.",
        ["regime", "seeds", *content["scopes"]],
        rows,
    )


def _list_losses(content: Mapping[str, Any], amount: str) -> Table:
    return Table(
        f"CTC loss, {amount}",
        "The lowest on validation data, in nats a label: mean and standard deviation over seeds.",
        ["regime", "seeds", *content["scopes"]],
        [
            [
                regime,
                count_seeds(spread["num"] for spread in row["ctc_loss"].values()),
                *(show_spread(row["ctc_loss"].get(scope), 3) for scope in content["scopes"]),
            ]
            for regime, row in content["regimes"].items()
        ],
    )


def _list_loss_differences(content: Mapping[str, Any], amount: str, baseline: str) -> Table:
    rows = [
        [
            regime,
            count_seeds(x["num_seeds"] for x in found.values()),
            *(show_difference(found.get(scope), 3, 1.0) for scope in content["scopes"]),
        ]
        for regime, row in content["regimes"].items()
        if (found := row["ctc_loss_difference"].get(baseline))
    ]

    return Table(
        f"CTC loss against {baseline}, {amount}",
        f"The difference in nats a label, seed by seed, below 0 where it is better; {STUDENT}",
        ["regime", "seeds", *content["scopes"]],
        rows,
    )


def _list_goals(content: Mapping[str, Any], amount: str) -> Table:
    goals = list(
        dict.fromkeys(goal for row in content["regimes"].values() for goal in row["goals"])
    )
    rows = []

    for regime, row in content["regimes"].items():
        rows.append([regime])

        for goal in goals:
            reached = row["goals"].get(goal)
            step = (
                ""
                if not reached or reached["mean_step"] is None
                else f", {reached['mean_step']:.0f}"
            )
            rows[-1].append(f"{reached['reached']}/{reached['of']}{step}" if reached else "")

    return Table(
        f"Fine-tuning, {amount}",
        "How many trainings came to a CER on validation data, and stayed there; and their mean number of updates then.",
        ["regime", *(f"CER {goal}" for goal in goals)],
        rows,
    )
