"""The pictures of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from eqssl_speech.report.page.charts import CTC, FINETUNING, LOSSES, OF_PRETRAINING, RATES, Chart
from eqssl_speech.report.page.drawing import (
    Picture,
    average,
    draw_bars,
    finish,
    list_points,
    make_grid,
    smooth,
    to_finite,
)
from eqssl_speech.report.page.inputs import (
    NamedAdaptation,
    NamedEvaluation,
    NamedStudy,
    ReportInput,
    TrainingRun,
)
from eqssl_speech.report.page.study_figures import draw_study
from eqssl_speech.report.picture import draw_line, make_styles
from eqssl_speech.report.runs import get_number

_MAX_NUM_PANELS: Final = 12


def draw_all(inputs: Sequence[ReportInput]) -> list[Picture]:
    """Draw all pictures that there is something for."""
    runs = [x for x in inputs if isinstance(x, TrainingRun)]
    pretraining = [run for run in runs if not run.is_finetuning]
    finetuning = [run for run in runs if run.is_finetuning]

    pictures = [
        _draw_sources(LOSSES, pretraining),
        *(_draw_runs(chart, pretraining) for chart in OF_PRETRAINING),
        _draw_perplexity(pretraining),
        _draw_runs(RATES, runs),
        _draw_sources(FINETUNING, finetuning),
        _draw_runs(CTC, finetuning),
        _draw_errors([x for x in inputs if isinstance(x, NamedEvaluation)]),
        _draw_adaptations([x for x in inputs if isinstance(x, NamedAdaptation)]),
    ]

    for study in inputs:
        if isinstance(study, NamedStudy):
            pictures += draw_study(study)

    return _make_names_unique([picture for picture in pictures if picture is not None])


def _make_names_unique(pictures: Sequence[Picture]) -> list[Picture]:
    """Give pictures names that can stand in a path and in a link."""
    slugs = [re.sub(r"[^A-Za-z0-9_.-]+", "-", picture.name).strip("-.") for picture in pictures]

    return [
        replace(p, name=slug if slugs.index(slug) == i else f"{slug}-{i}")
        for i, (p, slug) in enumerate(zip(pictures, slugs, strict=True))
    ]


def _draw_sources(chart: Chart, runs: Sequence[TrainingRun]) -> Picture | None:
    """Draw a panel for each run with a line for each source."""
    (metric,) = chart.metrics
    caption = chart.caption
    shown = [
        run
        for run in runs
        if any(list_points(history, metric)[0] for history in run.sources.values())
    ]
    if not shown:
        return None

    if len(shown) > _MAX_NUM_PANELS:
        caption += f" Only the first {_MAX_NUM_PANELS} of {len(shown)} runs are drawn."
        shown = shown[:_MAX_NUM_PANELS]

    sources = sorted({source for run in shown for source in run.sources})
    styles = dict(zip(sources, make_styles(len(sources)), strict=True))
    figure, panels = make_grid(len(shown))

    for axes, run in zip(panels, shown, strict=True):
        for source, history in run.sources.items():
            x, y = list_points(history, metric)
            if x:
                draw_line(axes, x, y, source, styles[source])

        chances = {
            round(value, 4)
            for history in run.sources.values()
            for row in history.values()
            if metric == "plain_loss" and (value := get_number(row, "chance")) is not None
        }
        # One of labels is of the data, and another in each source.
        if len(chances) == 1:
            axes.axhline(
                chances.pop(), color="0.45", linewidth=2.5, linestyle=(0, (1, 1)), label="chance"
            )

        axes.set_title(run.name, fontsize=10)
        axes.set_xlabel("update")
        axes.set_ylabel(chart.unit)

    return finish(figure, panels, chart.name, chart.title, caption)


def _draw_runs(chart: Chart, runs: Sequence[TrainingRun]) -> Picture | None:
    """Draw a panel for each metric with a line for each run."""
    histories = {run.name: run.train if chart.is_of_training else run.valid for run in runs}
    shown = [m for m in chart.metrics if any(list_points(h, m)[0] for h in histories.values())]
    if not shown:
        return None

    styles = make_styles(len(runs))
    figure, panels = make_grid(len(shown))

    for axes, metric in zip(panels, shown, strict=True):
        for run, style in zip(runs, styles, strict=True):
            x, y = list_points(histories[run.name], metric)
            if x:
                draw_line(
                    axes, x, smooth(y) if metric == "source_grad_cosine" else y, run.name, style
                )

        if chart.has_zero:
            axes.axhline(0.0, color="0.3", linewidth=1.0)

        axes.set_title(metric.replace("_", " "), fontsize=10)
        axes.set_xlabel("update")
        axes.set_ylabel(chart.unit)

    return finish(figure, panels, chart.name, chart.title, chart.caption)


def _draw_perplexity(runs: Sequence[TrainingRun]) -> Picture | None:
    averages = {run.name: average(run.sources.values(), "code_perplexity") for run in runs}
    averages = {name: points for name, points in averages.items() if points[0]}
    if not averages:
        return None

    figure, (axes,) = make_grid(1)
    for (name, (x, y)), style in zip(averages.items(), make_styles(len(averages)), strict=True):
        draw_line(axes, x, y, name, style)

    axes.set_xlabel("update")
    axes.set_ylabel("codes")

    return finish(
        figure,
        [axes],
        "perplexity",
        "Perplexity of codes",
        "How many codes are in use as if they were all used alike, averaged over sources; falls when the codebook "
        "collapses.",
    )


def _draw_errors(evaluations: Sequence[NamedEvaluation]) -> Picture | None:
    if not evaluations:
        return None

    languages = list(dict.fromkeys(lang for e in evaluations for lang in e.facts.languages))
    figure, panels = make_grid(2, width=1.0 + 0.35 * len(languages) * len(evaluations))

    for axes, unit in zip(panels, ("cer", "wer"), strict=True):
        bars = {
            e.name: [
                None
                if (facts := e.facts.languages.get(lang)) is None
                else (getattr(facts, unit), getattr(facts, f"{unit}_interval"))
                for lang in languages
            ]
            for e in evaluations
        }
        draw_bars(axes, languages, bars)
        axes.set_title(unit.upper(), fontsize=10)
        axes.set_ylabel("percent")

    return finish(
        figure,
        panels,
        "errors",
        "Error rates per language",
        "Lower is better. The whiskers hold 95 % of the resamples of utterances; where they overlap widely, nothing is "
        "said about which is better.",
    )


def _draw_adaptations(adaptations: Sequence[NamedAdaptation]) -> Picture | None:
    if not adaptations:
        return None

    sources = list(dict.fromkeys(s for a in adaptations for s in a.losses))
    styles = make_styles(len(adaptations))
    figure, panels = make_grid(min(len(sources), _MAX_NUM_PANELS))

    for axes, source in zip(panels, sources):
        for adaptation, style in zip(adaptations, styles, strict=True):
            losses = [to_finite(x) for x in adaptation.losses.get(source, [])]
            if losses:
                draw_line(axes, range(len(losses)), losses, adaptation.name, style)

        axes.set_title(source, fontsize=10)
        axes.set_xlabel("steps on the source")
        axes.set_ylabel("bits")

    return finish(
        figure,
        panels,
        "adaptation",
        "Adaptation curves",
        "The validation loss after so many steps of gradient descent on one source, from the shared parameters at 0. A "
        "model that has learned to adapt falls fast; one that has let go of its shared parameters begins high.",
    )
