"""The tables of a study, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from eqssl_speech.study.jobs import SEEN, UNSEEN

_COUNTINGS: Final = {
    "audio": "the same audio in each update",
    "updates": "as many updates, with full batches",
    "gradients": "as many gradient evaluations, with full batches",
}


def render_results(results: Mapping[str, Any]) -> str:
    """Return all tables that there is something for."""
    parts = [_render_tuning(results["tuning"])] if results["tuning"] else []

    for group in results["groups"]:
        title = f"## {group['family']}, {_COUNTINGS[group['counting']]}"
        tables = [table for table in _render_group(group, results["baseline"]) if table]

        if tables:
            parts.append("\n\n".join([title, *tables]))

    return "\n\n".join(parts) or "Nothing is done yet."


def _render_group(group: Mapping[str, Any], baseline: str) -> Iterable[str]:
    for amount, content in group["finetuning"].items():
        if not content["regimes"]:
            continue

        for unit in ("cer", "wer"):
            yield _render_rates(content, unit, amount)
            yield _render_differences(content, unit, amount, baseline)

        yield _render_training(content, amount)

    yield _render_adaptation(group["adaptation"])
    yield _render_pretraining(group["pretraining"])


def _render_rates(content: Mapping[str, Any], unit: str, amount: str) -> str:
    rows = [
        [
            regime,
            _count_seeds(row["num_seeds"].values()),
            *(_show_interval(row[unit].get(scope)) for scope in content["scopes"]),
        ]
        for regime, row in content["regimes"].items()
    ]

    return _table(
        f"{unit.upper()} in percent, {amount} (95 % interval over seeds and utterances)",
        ["regime", "seeds", *content["scopes"]],
        rows,
    )


def _render_differences(content: Mapping[str, Any], unit: str, amount: str, baseline: str) -> str:
    key = f"{unit}_difference"
    rows = [
        [regime, *(_show_difference(row[key].get(scope)) for scope in content["scopes"])]
        for regime, row in content["regimes"].items()
        if key in row
    ]

    return _table(
        f"{unit.upper()}, difference to `{baseline}` in points, {amount} (* outside of the noise; below 0 is better)",
        ["regime", *content["scopes"]],
        rows,
    )


def _render_training(content: Mapping[str, Any], amount: str) -> str:
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

    return _table(
        f"Fine-tuning, {amount}: lowest validation loss (nats a label); trainings that came below a CER, and their "
        "mean number of updates then",
        ["regime", *sources, *(f"CER {goal}" for goal in goals)],
        rows,
    )


def _render_adaptation(adaptation: Mapping[str, Any]) -> str:
    groups = [g for g in (SEEN, UNSEEN) if any(g in found for found in adaptation.values())]
    rows = []

    for regime, found in adaptation.items():
        cells = [regime]

        for group in groups:
            curve = found[group]["curve"] if group in found else []
            shown = [(curve[k] if k < len(curve) else None) for k in (0, 1, 5)]
            shown += [curve[-1], found[group]["lowest"]] if curve else [None, None]
            cells += [_show_spread(x, 3) for x in shown]

        rows.append(cells)

    return _table(
        "Own validation loss in bits after so many steps of adaptation (mean and standard deviation over seeds)",
        ["regime", *(f"{g} {at}" for g in groups for at in ("0", "1", "5", "last", "lowest"))],
        rows,
    )


def _render_pretraining(pretraining: Mapping[str, Any]) -> str:
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

    return _table(
        "Pre-training at its end: validation loss in bits at theta and adapted, accuracy, share of codes in use, mean "
        "cosine of two sources' gradients, hours of audio, minutes",
        ["regime", "seeds", "loss", "adapted", "accuracy", "codes", "cosine", "hours", "minutes"],
        rows,
    )


def _render_tuning(tuning: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            row["family"],
            row["regime"],
            f"`{row['setting']}`",
            ", ".join(f"{v}: {'-' if x is None else f'{x:.3f}'}" for v, x in row["losses"].items()),
            f"{row['chosen']:g}",
        ]
        for row in tuning
    ]

    return _table(
        "Tuning: validation loss in bits of each value, and the value chosen",
        ["family", "regime", "setting", "losses", "chosen"],
        rows,
    )


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""

    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]

    return "\n".join([f"{title}:", "", *lines])


def _count_seeds(numbers: Iterable[int]) -> str:
    counts = sorted(set(numbers))

    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _show_interval(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return ""

    return f"{100 * rate['value']:.1f} ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def _show_difference(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return ""

    mark = "*" if rate["low"] > 0.0 or rate["high"] < 0.0 else ""

    return (
        f"{100 * rate['value']:+.1f} ({100 * rate['low']:+.1f} to {100 * rate['high']:+.1f}){mark}"
    )


def _show_spread(spread: Mapping[str, float] | None, digits: int, scale: float = 1.0) -> str:
    if spread is None:
        return ""

    sd = f" ± {scale * spread['sd']:.{digits}f}" if spread["num"] > 1 else ""

    return f"{scale * spread['mean']:.{digits}f}{sd}"
