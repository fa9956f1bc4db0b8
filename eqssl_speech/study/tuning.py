"""What a tuning run has come to."""

from __future__ import annotations

import math
from pathlib import Path

from eqssl_speech.error import InputError
from eqssl_speech.report.runs import get_number, read_history


def read_tuned_loss(metrics: Path, num_steps: int, *, may_adapt: bool) -> float:
    """Read the loss of a tuning run on the validation data of all sources after its last update.

    :param metrics: The directory of its metrics.
    :param num_steps: Its updates: what has diverged may have left a validation of before.
    :param may_adapt: Whether the loss after the validation's inner steps counts where it is lower than that at theta.
        It does not if it is of some sources only: without those whose steps diverge an average may look the better.
    :returns: The loss, in bits for the models here; infinite if there is none.
    :raises InputError: If a file is damaged, or the run is gone.
    """
    # No reason to choose something else.
    if not metrics.parent.is_dir():
        raise InputError(
            f"{metrics.parent}: is gone, and with it what its setting came to; put it back, or remove its record in "
            "`state` to have it done again."
        )

    keys = ["plain_loss"]

    if may_adapt:
        of_sources = [_read_last(file, num_steps) for file in metrics.glob("valid/*.jsonl")]
        if of_sources and all("adapted_loss" in row for row in of_sources):
            keys.append("adapted_loss")

    row = _read_last(metrics / "valid.jsonl", num_steps)
    losses = [get_number(row, key) for key in keys]

    return min((x for x in losses if x is not None and math.isfinite(x)), default=math.inf)


def _read_last(file: Path, num_steps: int) -> dict[str, object]:
    history = read_history(file) if file.is_file() else {}

    return dict(history.get(num_steps, {}))
