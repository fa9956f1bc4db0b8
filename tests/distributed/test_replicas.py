"""However the work is shared, the same episodes make the same parameters: one process, DDP, FSDP2, hybrid sharding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES

WORKER = Path(__file__).with_name("replicas_worker.py")

MODES = ("one", "ddp", "fsdp", "hybrid")

# Each process of a pair takes itself for one of a node of two, so that four are two nodes.
PAIRS = 'export LOCAL_RANK=$((RANK % 2)) LOCAL_WORLD_SIZE=2; exec "$0" "$@"'

TOLERANCES = {"float32": 1e-6, "float64": 1e-12}

# In models of both families, three groups of parameters are gathered by themselves in FSDP2: the encoder's two layers
# and the rest; the first of the encoder's is gathered once more in the backward pass.
NUM_GROUPS = 3
NUM_GATHERS = 4


def run_modes(
    directory: Path, dtype: str, num_steps: int, cases: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Run the worker in all modes, two at a time; return what it counted."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

    launchers = {
        "one": [sys.executable],
        "ddp": [*torchrun, "2"],
        "fsdp": [*torchrun, "2"],
        "hybrid": [*torchrun, "4", "--no-python", "bash", "-c", PAIRS, sys.executable],
    }

    for modes in (MODES[:2], MODES[2:]):
        processes = [
            subprocess.Popen(
                [
                    *launchers[mode],
                    str(WORKER),
                    mode,
                    dtype,
                    str(directory),
                    str(num_steps),
                    *cases,
                ],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for mode in modes
        ]

        for mode, process in zip(modes, processes, strict=True):
            output, _ = process.communicate(timeout=1500)

            # Not the exit status: now and then gloo aborts one of four processes when all has been done.
            assert (directory / f"{mode}.json").is_file(), output

    return {mode: json.loads((directory / f"{mode}.json").read_text()) for mode in MODES}


def distance(directory: Path, mode: str, case: str) -> float:
    """Return how far the parameters are from those of one process, relative to their norm."""
    one, other = (torch.load(directory / f"{m}-{case}.pt") for m in ("one", mode))

    assert one.keys() == other.keys()

    ours = torch.cat([other[name].double().flatten() for name in one])
    expected = torch.cat([value.double().flatten() for value in one.values()])

    return float((ours - expected).norm() / expected.norm())


def expected_collectives(mode: str, case: str) -> dict[str, int]:
    """Return how often each collective is called in an outer step on one process.

    E episodes of the replica, K inner steps, G groups of parameters that are gathered together, of which A have to be
    gathered anew in the backward pass:

    * DDP: ``E`` all-reduces of the outer gradient, whatever K is.
    * FSDP2: ``E (K + 1) (G + A)`` all-gathers, ``E (K + 1) G`` reduce-scatters; ``E (K + 1)`` all-reduces of numbers
      (K norms, and whether all was finite) and one of the norm to clip.
    * Hybrid sharding: the same within a replica, and ``E G`` all-reduces between replicas, with inner gradients in the
      outer one ``E`` more.
    """
    _, inner_steps, episodes, weights = case.split("-")[:4]
    k, e = int(inner_steps), int(episodes)

    if mode in ("ddp", "hybrid"):
        e //= 2

    if mode == "one":
        return {}

    if mode == "ddp":
        return {"all_reduce": e}

    between = 0 if mode == "fsdp" else e * (NUM_GROUPS + (k > 0 and weights != "last"))

    return {
        "all_gather": e * (k + 1) * NUM_GATHERS,
        "reduce_scatter": e * (k + 1) * NUM_GROUPS,
        "all_reduce": e * (k + 1) + 1 + between,
    }


def check(directory: Path, dtype: str, num_steps: int, cases: Sequence[str]) -> list[str]:
    """Compare all modes with one process; return a line for each case."""
    facts = run_modes(directory, dtype, num_steps, cases)
    lines = []

    for case in cases:
        distances = {mode: distance(directory, mode, case) for mode in MODES[1:]}
        counts = {mode: facts[mode][case]["collectives"] for mode in MODES}

        lines.append(f"{case} {dtype}: {distances} {counts}")

        assert max(distances.values()) <= TOLERANCES[dtype], lines[-1]

        # A bad episode is computed twice.
        assert case.endswith("-bad") or counts == {m: expected_collectives(m, case) for m in MODES}

        if "-0-" not in case:
            whole, halves = (
                facts["ddp"][case]["snapshot_bytes"],
                facts["fsdp"][case]["snapshot_bytes"],
            )

            # What cannot be split evenly is less than a hundredth.
            assert 0.5 <= halves / whole <= 0.51
            assert facts["hybrid"][case]["snapshot_bytes"] == halves

    return lines


def test_parameters_collectives_and_snapshots(tmp_path: Path) -> None:
    cases = ["wav2vec2-3-2-last", "hubert-1-2-uniform", "hubert-1-2-uniform-bad"]

    check(tmp_path, "float32", 3, cases)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_cases(tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        f"{family}-{k}-{e}-{w}"
        for family in FAMILIES
        for k in (0, 1, 3)
        for e in (2, 6)
        for w in ("last", "uniform")
        if k > 0 or w == "last"
    ]

    cases += [f"{family}-3-6-uniform-bad" for family in FAMILIES]

    lines = check(tmp_path, dtype, 10, cases)

    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
