"""Puts pictures and tables into one HTML file that opens anywhere, without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from eqssl_speech.error import InputError
from eqssl_speech.report.output import write_atomically
from eqssl_speech.report.page.drawing import Picture
from eqssl_speech.report.page.figures import draw_all
from eqssl_speech.report.page.inputs import (
    NamedEvaluation,
    NamedStudy,
    ReportInput,
    TrainingRun,
)
from eqssl_speech.report.runs import get_number
from eqssl_speech.study.table import Table
from eqssl_speech.study.tables import list_tables

PAGE_FILE: Final = "report.html"


def write_report(inputs: Sequence[ReportInput], directory: Path, title: str) -> list[Path]:
    """Write ``report.html``, which holds all, and each picture as a file of its own.

    :param inputs: What it is about, at least one.
    :param directory: Is made.
    :param title: The title of the page.
    :returns: The files, the page first.
    :raises InputError: If they cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as ex:
        raise InputError(
            f"{directory}: cannot be made ({ex.strerror}); choose another `--out`."
        ) from None

    pictures = draw_all(inputs)

    files = [write_atomically(directory / f"{p.name}.png", p.png) for p in pictures]
    page = render_page(title, list_summaries(inputs), pictures, list_study_tables(inputs))

    return [write_atomically(directory / PAGE_FILE, page.encode()), *files]


def render_page(
    title: str,
    summaries: Sequence[Table],
    pictures: Sequence[Picture],
    details: Sequence[Table] = (),
) -> str:
    """Return the HTML.

    :param title: The title of the page.
    :param summaries: The tables before the pictures.
    :param pictures: The pictures.
    :param details: The tables after them.
    """
    environment = Environment(
        loader=PackageLoader("eqssl_speech.report.page", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    return environment.get_template("page.html.jinja").render(
        title=title,
        summaries=summaries,
        details=details,
        pictures=[
            {
                "name": picture.name,
                "title": picture.title,
                "caption": picture.caption,
                "data": base64.b64encode(picture.png).decode("ascii"),
            }
            for picture in pictures
        ],
    )


def list_summaries(inputs: Sequence[ReportInput]) -> list[Table]:
    """Return a table of what each run is and came to, and one of the evaluations."""
    runs = [x for x in inputs if isinstance(x, TrainingRun)]
    evaluations = [x for x in inputs if isinstance(x, NamedEvaluation)]
    tables = [
        _list_pretraining([run for run in runs if not run.is_finetuning]),
        _list_finetuning([run for run in runs if run.is_finetuning]),
        _list_evaluations(evaluations),
    ]

    return [table for table in tables if table.rows]


def list_study_tables(inputs: Sequence[ReportInput]) -> list[Table]:
    """Return the tables of studies, which are many."""
    return [
        replace(table, title=f"{study.name}: {table.title}")
        for study in inputs
        if isinstance(study, NamedStudy)
        for table in list_tables(study.results)
    ]


def _list_pretraining(runs: Sequence[TrainingRun]) -> Table:
    head = [
        "run",
        "model",
        "method",
        "updates",
        "hours heard",
        "loss",
        "adapted",
        "gain",
        "worst source",
    ]

    return Table(
        "Pre-trainings",
        "Losses in bits at the last validation, averaged over sources: at the shared parameters, and adapted.",
        head,
        [
            [
                run.name,
                f"{run.setting('model.family') or '?'} {run.setting('model.arch') or ''}".strip(),
                describe_method(run),
                _show(max([*run.train, *run.valid], default=0), 0),
                _show(_last(run.train, "total_audio_seconds"), 2, 1 / 3600),
                *(
                    _show(_last(run.valid, key), 3)
                    for key in ("plain_loss", "adapted_loss", "adaptation_gain")
                ),
                str(run.valid[max(run.valid)].get("worst_source", "")) if run.valid else "",
            ]
            for run in runs
        ],
    )


def _list_finetuning(runs: Sequence[TrainingRun]) -> Table:
    def best(run: TrainingRun, key: str) -> float | None:
        values = [x for row in run.valid.values() if (x := get_number(row, key)) is not None]

        return min(values, default=None)

    return Table(
        "Fine-tunings",
        "The lowest of all validations: error rates in percent, loss in nats a label.",
        ["run", "pre-trained", "updates", "CER", "WER", "loss"],
        [
            [
                run.name,
                Path(str(run.setting("pretrained"))).name if run.setting("pretrained") else "no",
                _show(max([*run.train, *run.valid], default=0), 0),
                _show(best(run, "macro_cer"), 1),
                _show(best(run, "macro_wer"), 1),
                _show(best(run, "ctc_loss"), 3),
            ]
            for run in runs
        ],
    )


def _list_evaluations(evaluations: Sequence[NamedEvaluation]) -> Table:
    def show(rate: float, interval: tuple[float, float] | None) -> str:
        if interval is None:
            return f"{100 * rate:.1f}"

        return f"{100 * rate:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"

    return Table(
        "Evaluations",
        "Error rates in percent, with intervals that hold 95 % of the resamples of utterances.",
        ["evaluation", "language", "split", "utterances", "CER", "WER"],
        [
            [
                evaluation.name,
                language,
                evaluation.facts.split,
                str(facts.num_utterances),
                show(facts.cer, facts.cer_interval),
                show(facts.wer, facts.wer_interval),
            ]
            for evaluation in evaluations
            for language, facts in evaluation.facts.languages.items()
        ],
    )


def describe_method(run: TrainingRun) -> str:
    """Say how a run was pre-trained; nothing of one that has lost its configuration."""
    if not run.config:
        return ""

    if run.setting("equilibrium") is None:
        return "conventional" if run.setting("dataset.regime") == "mixed" else "per source"

    return (
        f"equilibrium, K = {run.setting('equilibrium.num_inner_steps')}, "
        f"{run.setting('equilibrium.outer_weights')}, inner_lr {run.setting('equilibrium.inner_lr')}"
    )


def _last(history: Mapping[int, Mapping[str, object]], key: str) -> float | None:
    return get_number(history[max(history)], key) if history else None


def _show(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "" if value is None else f"{scale * value:.{digits}f}"
