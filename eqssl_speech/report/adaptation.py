"""What `eqssl adapt` writes: ``adaptation.json``, a table, and a picture of the curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eqssl_speech.error import InputError
from eqssl_speech.report.output import write_atomically
from eqssl_speech.report.picture import draw_line, make_styles
from eqssl_speech.text.tables import render_table

if TYPE_CHECKING:
    from eqssl_speech.tasks.adapt.adapt import AdaptationCurve, AdaptationOptions

ADAPTATION_FILE: Final = "adaptation.json"

PICTURE_FILE: Final = "adaptation.png"

_VERSION: Final = 1


def write_adaptation(
    directory: Path, model: str, options: AdaptationOptions, curves: Sequence[AdaptationCurve]
) -> tuple[Path, Path]:
    """Write the curves and their picture.

    :param directory: Is made.
    :param model: The model, in words.
    :param options: How they were measured.
    :param curves: The curves.
    :returns: The files.
    :raises InputError: If they cannot be written.
    """
    content = {
        "version": _VERSION,
        "model": model,
        "options": vars(options),
        "sources": {
            curve.source: {
                "language": curve.language,
                # JSON has no infinity.
                "losses": [x if math.isfinite(x) else None for x in curve.losses],
                "chance": curve.chance,
                "num_targets": curve.num_targets,
            }
            for curve in curves
        },
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as ex:
        raise InputError(
            f"{directory}: cannot be made ({ex.strerror}); choose another `--out`."
        ) from None

    picture = write_atomically(directory / PICTURE_FILE, _draw(curves))

    # Last: who finds it finds all.
    return write_atomically(directory / ADAPTATION_FILE, text.encode()), picture


def read_adaptation(directory: Path) -> dict[str, list[float]]:
    """Read the losses by source, in bits, after 0 .. K steps.

    :raises InputError: If it is not what :func:`write_adaptation` writes.
    """
    file = directory / ADAPTATION_FILE

    try:
        content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))

        if content["version"] == _VERSION:
            return {
                name: [math.inf if x is None else float(x) for x in row["losses"]]
                for name, row in content["sources"].items()
            }
    except OSError as ex:
        raise InputError(
            f"{file}: cannot be read ({ex.strerror}); run `eqssl adapt` first."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass

    raise InputError(f"{file}: is not what this version of `eqssl adapt` writes; run it again.")


def render_curves(curves: Sequence[AdaptationCurve]) -> str:
    """Lay the curves out as a table, in bits, with the step at which each is lowest."""
    last = len(curves[0].losses) - 1
    steps = sorted({k for k in (0, 1, 2, 3, 5, 10, last) if k <= last})

    rows = [["source", *map(str, steps), "lowest", "at", "chance"]]

    for curve in curves:
        losses = [f"{curve.losses[k]:.3f}" for k in steps]
        lowest = curve.losses[curve.best_step]

        rows.append(
            [curve.source, *losses, f"{lowest:.3f}", str(curve.best_step), f"{curve.chance:.3f}"]
        )

    return render_table(
        rows, title="validation loss after so many steps on the source, in bits", left=("source",)
    )


def _draw(curves: Sequence[AdaptationCurve]) -> bytes:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()

    for curve, style in zip(curves, make_styles(len(curves)), strict=True):
        finite = [x if math.isfinite(x) else math.nan for x in curve.losses]
        draw_line(axes, range(len(finite)), finite, curve.source, style)

    axes.set_xlabel("steps of gradient descent on the source")
    axes.set_ylabel("validation loss (bits)")
    axes.grid(color="0.9")
    figure.legend(loc="outside right upper")

    FigureCanvasAgg(figure)

    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)

    return content.getvalue()
