"""The pictures of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from eqssl_speech.report.page.drawing import Picture, draw_bars, draw_differences, finish, make_grid
from eqssl_speech.report.page.inputs import NamedStudy
from eqssl_speech.report.picture import draw_line, make_styles
from eqssl_speech.study.jobs import SEEN, UNSEEN
from eqssl_speech.study.statistics import MIN_NUM_SEEDS
from eqssl_speech.study.tables import COUNTINGS

_WHISKERS: Final = (
    "seed by seed: below 0 is better. The whiskers are 95 % intervals of the mean over seeds, by Student's t, of at "
    f"least {MIN_NUM_SEEDS} seeds."
)


def draw_study(study: NamedStudy) -> Iterable[Picture]:
    """Draw error rates and adaptation curves, and how adapted losses differ from those of the baselines."""
    for group in study.results["groups"]:
        where = f"{group['family']}, {COUNTINGS[group['counting']]}"

        for amount, content in group["finetuning"].items():
            rows = content["regimes"]
            scopes = [s for s in (SEEN, UNSEEN) if any(s in row["cer"] for row in rows.values())]
            if not scopes:
                continue

            figure, (axes,) = make_grid(1, width=2.0 + 0.5 * len(rows) * len(scopes))
            rates = {
                regime: [row["cer"].get(scope) for scope in scopes] for regime, row in rows.items()
            }
            draw_bars(
                axes,
                scopes,
                {
                    regime: [x and (x["value"], (x["low"], x["high"])) for x in values]
                    for regime, values in rates.items()
                },
            )
            axes.set_ylabel("CER, percent")

            yield finish(
                figure,
                [axes],
                f"{study.name} {where} {amount}",
                f"{study.name}: CER, {amount}: {where}",
                "Character error rates of recognisers of languages that pre-training has heard and of others. Lower is "
                "better; the whiskers are 95 % intervals over seeds and utterances.",
            )

            for baseline in study.results["baselines"]:
                found = {
                    regime: row["ctc_loss_difference"].get(baseline) for regime, row in rows.items()
                }
                if any(found.values()):
                    yield _draw_losses(
                        found,
                        scopes,
                        baseline,
                        f"{study.name} {where} {amount} against {baseline}",
                        f"{study.name}: CTC loss, {amount}, against {baseline}: {where}",
                    )

        for lr in dict.fromkeys(lr for found in group["adaptation"].values() for lr in found):
            curves = {r: found[lr] for r, found in group["adaptation"].items() if lr in found}
            scopes = [s for s in (SEEN, UNSEEN) if any(s in found for found in curves.values())]
            name, title = f"{study.name} {where} adaptation {lr}", f"adaptation with steps of {lr}"

            yield _draw_curves(curves, scopes, name, f"{study.name}: {title}: {where}")

            for baseline in study.results["baselines"]:
                picture = _draw_differences(
                    curves,
                    scopes,
                    baseline,
                    f"{name} against {baseline}",
                    f"{study.name}: {title}, against {baseline}: {where}",
                )
                if picture is not None:
                    yield picture


def _draw_curves(
    curves: Mapping[str, Any], scopes: Sequence[str], name: str, title: str
) -> Picture:
    figure, panels = make_grid(len(scopes))

    for axes, scope in zip(panels, scopes, strict=True):
        for (regime, found), style in zip(curves.items(), make_styles(len(curves)), strict=True):
            # Of a regime of which a run has diverged by then, there is no mean.
            means = [x["mean"] if x else None for x in found.get(scope, [])]
            values = [math.nan if x is None else x for x in means]
            draw_line(axes, range(len(means)), values, regime, style)

        axes.set_title(f"{scope} sources", fontsize=10)
        axes.set_xlabel("steps on a source")
        axes.set_ylabel("bits")

    return finish(
        figure,
        panels,
        name,
        title,
        "The validation loss after so many steps on one source, averaged over sources and seeds. A line ends where a "
        "run diverges.",
    )


def _draw_differences(
    curves: Mapping[str, Any], scopes: Sequence[str], baseline: str, name: str, title: str
) -> Picture | None:
    differences: dict[str, dict[str, list[Any]]] = {}
    for scope in scopes:
        for regime, found in curves.items():
            steps = [at.get(baseline) for at in found.get(f"{scope}_difference", [])]
            if any(steps):
                differences.setdefault(scope, {})[regime] = steps

    if not differences:
        return None

    num_groups = sum(map(len, differences.values()))
    figure, panels = make_grid(len(differences), width=2.0 + 0.75 * num_groups)

    for axes, (scope, by_regime) in zip(panels, differences.items(), strict=True):
        last = max(map(len, by_regime.values())) - 1

        draw_differences(
            axes,
            list(by_regime),
            {
                f"after {k} step{'s' * (k != 1)}": [
                    _read_interval(steps[k]) if k < len(steps) else None
                    for steps in by_regime.values()
                ]
                for k in [*(k for k in (0, 1) if k < last), last]
            },
        )
        axes.set_title(f"{scope} sources", fontsize=10)
        axes.set_ylabel("bits")

    return finish(
        figure,
        panels,
        name,
        title,
        f"How much higher the validation loss is than that of {baseline}, {_WHISKERS}",
    )


def _draw_losses(
    differences: Mapping[str, Mapping[str, Any] | None],
    scopes: Sequence[str],
    baseline: str,
    name: str,
    title: str,
) -> Picture:
    known = {regime: found for regime, found in differences.items() if found}
    figure, (axes,) = make_grid(1, width=2.0 + 0.75 * len(known))

    draw_differences(
        axes,
        list(known),
        {scope: [_read_interval(found.get(scope)) for found in known.values()] for scope in scopes},
    )
    axes.set_ylabel("nats a label")

    return finish(
        figure,
        [axes],
        name,
        title,
        f"How much higher the lowest validation loss of recognisers is than that of those from {baseline}, {_WHISKERS}",
    )


def _read_interval(
    estimate: Mapping[str, Any] | None,
) -> tuple[float, tuple[float, float] | None] | None:
    if estimate is None:
        return None

    has_interval = estimate["num_seeds"] >= MIN_NUM_SEEDS

    return estimate["value"], (estimate["low"], estimate["high"]) if has_interval else None
