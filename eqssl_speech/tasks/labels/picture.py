"""``quality.png``: how often labels occur in each source, and how long they last and what they tell of phones.

Lines differ in dash and marker as well as in colour, so that a black and white print says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eqssl_speech.labels.quality import LabelTally
from eqssl_speech.report.output import write_atomically
from eqssl_speech.tasks.labels.report import LabelReport

PICTURE_FILE: Final = "quality.png"

_COLORS: Final = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")

_MARKERS: Final = ("o", "s", "^", "D", "v", "x", "P", "*")

_DASHES: Final = ("-", "--", "-.", ":")


def draw_report(
    report: LabelReport, tallies: Mapping[str, Sequence[LabelTally]], out: Path
) -> None:
    """Draw ``quality.png`` in one move.

    :param report: How good the labels are.
    :param tallies: How often each label occurs, by source.
    :param out: The directory of the labels.
    :raises InputError: If it cannot be written.
    """
    width = 4.0 + max(4.0, 0.5 * len(report.sources))
    figure = Figure(figsize=(width, 8.0), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))

    _draw_ranks(figure.add_subplot(grid[0, :]), tallies)

    names = list(report.sources)
    measures = list(report.sources.values())

    runs = [m.mean_run_ms for m in measures]
    _draw_bars(figure.add_subplot(grid[1, 0]), names, runs, "mean run (ms)")

    if report.all.phones is None:
        perplexities = [m.perplexity for m in measures]
        _draw_bars(figure.add_subplot(grid[1, 1]), names, perplexities, "perplexity")
    else:
        values = [float("nan") if m.phones is None else m.phones.pnmi for m in measures]
        _draw_bars(figure.add_subplot(grid[1, 1]), names, values, "PNMI, where phones are known")

    figure.suptitle(f"labels of {report.features}, {report.frame_rate:g} a second")

    FigureCanvasAgg(figure)

    content = BytesIO()

    figure.savefig(content, format="png", dpi=120)

    write_atomically(out / PICTURE_FILE, content.getvalue())


def _draw_ranks(axes: Axes, tallies: Mapping[str, Sequence[LabelTally]]) -> None:
    styles = zip(cycle(_COLORS), cycle(_MARKERS), cycle(_DASHES))

    for (name, of_splits), (color, marker, dash) in zip(tallies.items(), styles):
        counts = np.sort(sum(tally.counts for tally in of_splits))[::-1]
        shares = 100 * counts[counts > 0] / max(1, counts.sum())

        axes.plot(
            np.arange(1, len(shares) + 1),
            shares,
            label=name,
            color=color,
            marker=marker,
            linestyle=dash,
            markerfacecolor="none",
            markevery=max(1, len(shares) // 10),
        )

    axes.set_yscale("log")
    axes.set_xlabel("label, the commonest first")
    axes.set_ylabel("share of the source's frames (%)")
    axes.grid(color="0.9")
    axes.legend()


def _draw_bars(axes: Axes, names: Sequence[str], values: Sequence[float], title: str) -> None:
    axes.bar(range(len(names)), values, 0.7, facecolor="0.85", edgecolor="black")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel(title)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
