"""Starts `eqssl` again and again without importing everything each time.

A server process imports it once; each start is a fork of that. What a fork shares with the others, the order of sets
and what is imported already, a start by a user does not: where that could matter, tests start Python itself.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# The extension, the recipes, and what the host imports only once a run begins.
_PRELOADED = ["eqssl_speech.tasks.pretrain.recipe", "eqssl_speech.tasks.finetune.recipe"]


def start(
    arguments: Sequence[str],
    env: Mapping[str, str],
    timeout_s: float,
    *,
    script: Path | None = None,
    errors: bool = True,
) -> tuple[int, str]:
    """Run ``python -m eqssl_speech`` to its end.

    :param arguments: What follows that.
    :param env: The environment; of what is read while modules are imported, that of the first start counts.
    :param timeout_s: How long it may take.
    :param script: What is run instead, if anything.
    :param errors: Whether standard error is part of the output.
    :returns: The exit status, and what was written to standard output and standard error.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)

    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "output"

        process = context.Process(
            target=_run, args=(list(arguments), dict(env), str(output), script, errors)
        )

        before = dict(os.environ)
        os.environ.update(env)
        try:
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

        process.join(timeout_s)

        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"{arguments} took more than {timeout_s} s.")

        assert process.exitcode is not None

        return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def _run(
    arguments: list[str], env: dict[str, str], output: str, script: Path | None, errors: bool
) -> None:
    os.environ.clear()
    os.environ.update(env)

    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file if errors else os.open(os.devnull, os.O_WRONLY), 2)

    sys.argv = ["eqssl", *arguments]

    # Nothing may depend on what a library has left in them.
    np.random.seed()  # noqa: NPY002
    random.seed()

    try:
        if script is None:
            runpy.run_module("eqssl_speech", run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(script), run_name="__main__")
    finally:
        # A fork of a server does not come by it on its way out.
        atexit._run_exitfuncs()
