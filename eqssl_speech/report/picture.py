"""Draws runs: loss at theta per source over steps with the chance line, and adaptation gains.

Lines differ in dash and marker as well as in colour, and bars in hatching, so that a black and
white print says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eqssl_speech.report.output import write_atomically
from eqssl_speech.report.runs import RunRecord, get_number
from eqssl_speech.report.summary import Summary

PICTURE_FILE_NAME = "summary.png"

_COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")

_MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")

_DASHES = ("-", "--", "-.", ":")

HATCHES = ("////", "....", "xxxx", "----")


def draw_picture(runs: Sequence[RunRecord], summary: Summary, directory: Path) -> Path:
    """Draw ``summary.png`` into a directory, in one move.

    :param runs: The runs, at least one.
    :param summary: Their summary.

    :returns: The file.

    :raises InputError: If the directory cannot be written to.
    """
    sources = sorted({source for run in runs for source in run.valid})

    figure = Figure(figsize=(3 + 4.2 * len(runs), 6.4 + 0.12 * len(sources)), layout="constrained")

    grid = figure.add_gridspec(2, len(runs), height_ratios=(3, 2))

    first: Axes | None = None
    for column, run in enumerate(runs):
        first = figure.add_subplot(grid[0, column], sharex=first, sharey=first)

        _draw_losses(first, run, sources)

    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}

    figure.legend(list(handles.values()), [str(x) for x in handles], loc="outside right upper")

    _draw_gains(figure.add_subplot(grid[1, :]), summary, sources)

    FigureCanvasAgg(figure)

    content = BytesIO()

    figure.savefig(content, format="png", dpi=120)

    return write_atomically(directory / PICTURE_FILE_NAME, content.getvalue())


def _draw_losses(axes: Axes, run: RunRecord, sources: Sequence[str]) -> None:
    for source, style in zip(sources, make_styles(len(sources)), strict=True):
        history = run.valid.get(source)
        if history is None:
            continue

        losses = [get_number(row, "plain_loss") for row in history.values()]

        draw_line(
            axes,
            list(history),
            [float("nan") if loss is None else loss for loss in losses],
            source,
            style,
        )

    for level in sorted(_find_chances(run)):
        axes.axhline(level, label="chance", color="0.45", linewidth=2.5, linestyle=(0, (1, 1)))

    axes.set_title(run.name)
    axes.set_xlabel("update")
    axes.set_ylabel("validation loss at theta (bits)")
    axes.grid(color="0.9")


def draw_line(
    axes: Axes, x: Sequence[int], y: Sequence[float], label: str, style: tuple[str, str, str]
) -> None:
    """Draw a line in one of the styles of :func:`make_styles`."""
    color, marker, dash = style

    axes.plot(
        x,
        y,
        label=label,
        color=color,
        marker=marker,
        linestyle=dash,
        linewidth=1.4,
        markersize=5,
        markerfacecolor="none",
        markevery=max(1, len(x) // 8),
    )


def make_styles(count: int) -> list[tuple[str, str, str]]:
    """Return colour, marker and dash of so many lines; they differ without their colours too."""
    # Dash and marker go round at different paces, so that 32 pairs come before one comes again.
    return [(_COLORS[i % 7], _MARKERS[i % 8], _DASHES[(i + i // 8) % 4]) for i in range(count)]


def _find_chances(run: RunRecord) -> set[float]:
    levels = {
        get_number(row, "chance") for history in run.valid.values() for row in history.values()
    }

    return {round(level, 6) for level in levels if level is not None}


def _draw_gains(axes: Axes, summary: Summary, sources: Sequence[str]) -> None:
    width = 0.8 / len(summary.runs)

    for nr, ((name, run), hatch) in enumerate(zip(summary.runs.items(), cycle(HATCHES))):
        gains = [run.sources[s].adaptation_gain if s in run.sources else None for s in sources]

        axes.bar(
            [i + (nr + 0.5) * width - 0.4 for i in range(len(sources))],
            [float("nan") if gain is None else gain for gain in gains],
            width,
            label=name if any(gain is not None for gain in gains) else f"{name}: not measured",
            hatch=hatch,
            facecolor="white" if nr % 2 == 0 else "0.8",
            edgecolor="black",
        )

    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(-0.6, len(sources) - 0.4)
    axes.set_xticks(range(len(sources)), sources, rotation=30, ha="right")
    axes.set_ylabel("adaptation gain (bits)")
    axes.set_title("loss at theta minus loss after adaptation, last validation")
    axes.legend()
