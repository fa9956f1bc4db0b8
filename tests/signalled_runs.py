"""Runs that get a signal on the way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals

from recipe_runs import ENV, Run


def run_and_signal(
    command: Sequence[str],
    directory: Path,
    number: Signals,
    line: str,
    find_target: Callable[[int], int] = lambda pid: pid,
) -> Run:
    """Start a run, send a signal when a line of its output has come, and wait for its end.

    :param command: What to start.
    :param directory: The output directory.
    :param number: The signal.
    :param line: What the line holds.
    :param find_target: Takes the number of the process that was started and returns that of the one to signal.
    """
    output, is_sent = "", False

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENV
    ) as process:
        assert process.stdout is not None

        for text in process.stdout:
            output += text

            if line in text and not is_sent:
                os.kill(find_target(process.pid), number)

                is_sent = True

    assert is_sent, f"{line!r} never came:\n{output}"

    return Run(process.returncode, output, directory)


def find_rank(rank: int) -> Callable[[int], int]:
    """Return what finds a rank among the children of torchrun."""

    def find(pid: int) -> int:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

        (child,) = (
            c
            for c in children
            if f"RANK={rank}" in Path(f"/proc/{c}/environ").read_text().split("\0")
        )

        return int(child)

    return find
