"""How pictures of a report are drawn: panels, bars with whiskers, legends. Lines differ in dash and marker, bars in
hatching, so that a black and white print says the same as the colours do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eqssl_speech.report.picture import HATCHES, make_styles
from eqssl_speech.report.runs import History, get_number

_NUM_COLUMNS: Final = 3


@final
@dataclass(frozen=True)
class Picture:
    """A picture, and what it shows."""

    name: str
    """Of its file, without the suffix."""

    title: str

    caption: str
    """How it is read."""

    png: bytes


def draw_bars(
    axes: Axes,
    groups: Sequence[str],
    bars: Mapping[str, Sequence[tuple[float, tuple[float, float] | None] | None]],
) -> None:
    """Draw groups of bars with whiskers.

    :param groups: The groups, on the horizontal axis.
    :param bars: By label, a rate (1.0 is 100 %) and its interval for each group.
    """
    width = 0.8 / len(bars)

    for number, (label, values) in enumerate(bars.items()):
        x = [i + (number + 0.5) * width - 0.4 for i in range(len(groups))]
        heights = [math.nan if v is None else 100 * v[0] for v in values]
        lows = [
            0.0 if v is None or v[1] is None else 100 * max(0.0, v[0] - v[1][0]) for v in values
        ]
        highs = [
            0.0 if v is None or v[1] is None else 100 * max(0.0, v[1][1] - v[0]) for v in values
        ]

        axes.bar(
            x,
            heights,
            width,
            yerr=(lows, highs),
            capsize=2,
            error_kw={"linewidth": 0.9},
            label=label,
            hatch=HATCHES[number % len(HATCHES)],
            facecolor=("white", "0.85", "0.65")[number % 3],
            edgecolor="black",
            linewidth=0.7,
        )

    axes.set_xticks(range(len(groups)), groups)
    axes.margins(y=0.1)


def draw_differences(
    axes: Axes,
    groups: Sequence[str],
    points: Mapping[str, Sequence[tuple[float, tuple[float, float] | None] | None]],
) -> None:
    """Draw differences from 0 with whiskers.

    :param groups: The groups, on the horizontal axis.
    :param points: By label, a difference and its interval for each group.
    """
    axes.axhline(0.0, color="0.5", linewidth=0.9)

    for number, (label, values) in enumerate(points.items()):
        color, marker, _ = make_styles(len(points))[number]
        offset = (number - (len(points) - 1) / 2) * 0.6 / len(points)
        known = [
            (i + offset, v[0], v[1] or (v[0], v[0])) for i, v in enumerate(values) if v is not None
        ]

        axes.errorbar(
            [x for x, _, _ in known],
            [y for _, y, _ in known],
            yerr=([y - low for _, y, (low, _) in known], [high - y for _, y, (_, high) in known]),
            color=color,
            marker=marker,
            linestyle="none",
            capsize=3,
            linewidth=1.0,
            markersize=5,
            label=label,
        )

    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
    axes.set_xlim(-0.5, len(groups) - 0.5)


def make_grid(num: int, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """Make a figure with so many panels.

    :param num: The panels.
    :param width: The width in inches; by default as the panels need it.
    """
    columns = min(num, _NUM_COLUMNS)
    rows = -(-num // columns)
    size = (max(5.6, 3.9 * columns if width is None else min(13.0, width)), 3.3 * rows)

    figure = Figure(figsize=size, layout="constrained")

    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(num)]


def finish(figure: Figure, panels: Sequence[Axes], name: str, title: str, caption: str) -> Picture:
    """Add the legend, and turn a figure into a picture."""
    handles: dict[str, Any] = {}

    for axes in panels:
        axes.grid(color="0.9")
        locator = axes.xaxis.get_major_locator()
        if isinstance(locator, MaxNLocator):
            # Updates and steps are counted.
            locator.set_params(integer=True)
        axes.set_axisbelow(True)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)

    if handles:
        # Below, so that a narrow screen shows the panels as large as it can.
        longest = max(map(len, handles))
        columns = max(1, min(len(handles), int(figure.get_figwidth() * 11 / (longest + 6))))
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=columns,
            fontsize=8,
        )

    FigureCanvasAgg(figure)

    content = BytesIO()
    # No time and no version in it: the same runs give the same bytes.
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})

    return Picture(name, title, caption, content.getvalue())


def list_points(history: History, metric: str) -> tuple[list[int], list[float]]:
    """Return the updates and the values of a metric, where it is finite."""
    points = [
        (step, value)
        for step, row in history.items()
        if (value := get_number(row, metric)) is not None and math.isfinite(value)
    ]

    return [step for step, _ in points], [value for _, value in points]


def average(histories: Iterable[History], metric: str) -> tuple[list[int], list[float]]:
    """Return the updates and the values of a metric, averaged over histories."""
    by_step: dict[int, list[float]] = {}

    for history in histories:
        for step, value in zip(*list_points(history, metric), strict=True):
            by_step.setdefault(step, []).append(value)

    return sorted(by_step), [sum(by_step[s]) / len(by_step[s]) for s in sorted(by_step)]


def smooth(values: Sequence[float]) -> list[float]:
    """Return running means over five values."""
    windows = [values[max(0, i - 2) : i + 3] for i in range(len(values))]

    return [sum(window) / len(window) for window in windows]


def to_finite(x: float) -> float:
    """Return what can be drawn of a number."""
    return x if math.isfinite(x) else math.nan
