#!/usr/bin/env python3
"""What an outer step costs: time over K+1 plain gradient evaluations, extra memory over plain training.

    .venv/bin/python tools/bench_inner.py                            # base model, 95 M parameters, on the CPU
    .venv/bin/python tools/bench_inner.py --device cuda --batch 8x15s --repeats 20
    .venv/bin/python tools/bench_inner.py --size tiny --repeats 20 --peers ''

Time: one process, one model, one AdamW, the same batches with the same random numbers; the variants take turns.
`plain` runs forward and backward K+1 times, accumulating, and one step of AdamW. A variant's ratio is the median, over
the rounds, of its time over the plain one's of the same round; the ratio of processor times stands beside it, which
other jobs on the machine disturb less (on the CPU, with `--threads 1`).
Memory: a process per variant; the peak of live tensors over 3 outer steps, less that of plain training on the same
batches, one per step.

Other libraries do first-order MAML of the same job where they run (`pip install higher torchopt`; learn2learn 0.2.0
does not compile on Python 3.11 and later, but its unpacked source distribution on PYTHONPATH is enough for MAML). Their
outer gradient is compared with ours. For clean numbers let nothing else run on the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import eqssl_speech  # isort: skip  # Finds libsndfile before fairseq2 is imported.

import torch
from _bench.job import SIZES, Job, JobSpec, parse_batch
from _bench.memory import measure_memory
from _bench.peers import PEERS
from _bench.timing import Timing, set_deviations, time_variants
from _bench.variants import (
    OURS,
    OURS_UNIFORM,
    PLAIN,
    Equilibrium,
    EquilibriumUniform,
    Plain,
    PlainPerBatch,
    Variant,
)
from rich.console import Console
from rich.table import Table

TIME_LIMIT: Final = 1.05
"""Issue 2: an outer step over K+1 plain gradient evaluations."""

MEMORY_LIMIT: Final = 1.1
"""Issue 2: extra peak memory over the bytes of the parameters."""

VARIANTS: Final[dict[str, type[Variant]]] = {
    PLAIN: Plain,
    OURS: Equilibrium,
    OURS_UNIFORM: EquilibriumUniform,
    **PEERS,
}


def main() -> int:
    """Run the benchmark; exit status 1 where our side is over a limit of issue 2."""
    args = parse_args()

    torch._dynamo.config.disable = True  # No compiler is needed, on any side.

    if args.threads:
        torch.set_num_threads(args.threads)

    spec = JobSpec(
        size=args.size,
        device=args.device,
        batch=args.batch,
        num_inner_steps=args.inner_steps[0],
        inner_lr=args.inner_lr,
    )

    if args.memory_of is not None:
        memory = measure_memory(args.device, lambda n: run(spec, args.memory_of, n))

        print(json.dumps(asdict(memory)))

        return 0

    console = Console()
    job = Job(spec)
    report = describe(job, args)

    for num_inner_steps in args.inner_steps:
        with console.status(f"K = {num_inner_steps}"):
            result = measure(job, num_inner_steps, args)

        report["results"].append(result)
        print_result(console, result)

        if args.json is not None:
            args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    return 0 if all(r["within_limits"] for r in report["results"]) else 1


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--size", choices=sorted(SIZES), default="base")
    add("--inner-steps", type=int, nargs="+", default=[1, 3], metavar="K")
    add("--repeats", type=int, default=5, help="rounds in which every variant takes one step")
    add("--batch", default="2x2s", help="utterances x seconds (default: %(default)s)")
    add("--inner-lr", type=float, default=0.01)
    add("--peers", default=",".join(PEERS), help="comma-separated (default: %(default)s)")
    add("--threads", type=int, help="of torch (default: torch's choice)")
    add("--no-memory", action="store_true", help="time only")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--memory-of", choices=sorted(VARIANTS), help=argparse.SUPPRESS)  # The child process.
    args = parser.parse_args()

    args.peers = [p for p in args.peers.split(",") if p]

    unknown = [p for p in args.peers if p not in PEERS]
    if unknown:
        parser.error(f"`--peers` must name some of {', '.join(PEERS)}, but has {unknown[0]}.")

    if min(args.inner_steps) < 0 or args.repeats < 1:
        parser.error("`--inner-steps` must be at least 0 and `--repeats` at least 1.")

    try:
        parse_batch(args.batch)
    except ValueError as ex:
        parser.error(str(ex))

    return args


def describe(job: Job, args: argparse.Namespace) -> dict[str, Any]:
    """Say what is measured on what."""
    on_gpu = args.device == "cuda"

    return {
        "num_params": sum(p.numel() for p in job.params),
        "param_bytes": job.param_bytes,
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "eqssl_speech": eqssl_speech.__version__,
        "spec": asdict(job.spec),
        "num_repeats": args.repeats,
        "limits": {"time": TIME_LIMIT, "memory": MEMORY_LIMIT},
        "results": [],
    }


def run(spec: JobSpec, name: str, num_steps: int) -> None:
    """Build everything and take outer steps: what a child process is measured in."""
    variant = (PlainPerBatch if name == PLAIN else VARIANTS[name])(Job(spec))

    for _ in range(num_steps):
        variant.accumulate()
        variant.apply()


def measure(job: Job, num_inner_steps: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all variants at one K."""
    job.set_num_inner_steps(num_inner_steps)

    variants, failures = build_variants(job, args.peers)

    deviations = set_deviations(variants)
    timings = time_variants(variants, args.repeats)

    for name, value in deviations.items():
        timings[name].grad_deviation = value

    rows = {name: to_row(timing) for name, timing in timings.items()}

    if not args.no_memory:
        add_memory(rows, job.param_bytes, num_inner_steps)

    ours = rows[OURS]

    return {
        "num_inner_steps": num_inner_steps,
        "variants": rows,
        "not_run": failures,
        "within_limits": ours["time_ratio"] <= TIME_LIMIT
        and ours.get("extra_memory_ratio", 0.0) <= MEMORY_LIMIT,
    }


def build_variants(job: Job, peers: list[str]) -> tuple[dict[str, Variant], dict[str, str]]:
    """Build each variant, and try each peer once.

    :returns: The variants that run, and the reasons of those that do not.
    """
    variants: dict[str, Variant] = {
        PLAIN: Plain(job),
        OURS: Equilibrium(job),
        OURS_UNIFORM: EquilibriumUniform(job),
    }
    failures: dict[str, str] = {}

    for name in peers:
        # Whatever a foreign library raises is a reason not to measure it, and none to stop.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")

                variant = PEERS[name](job)
                variant.accumulate()
        except Exception as ex:
            failures[name] = f"{type(ex).__name__}: {ex}".strip()
        else:
            variants[name] = variant
        finally:
            job.optimizer.zero_grad()

    return variants, failures


def to_row(timing: Timing) -> dict[str, Any]:
    """Return what goes in the file for a timing."""
    return {
        **asdict(timing),
        "median_s": timing.median_s,
        "time_ratio": timing.ratio,
        "cpu_time_ratio": timing.cpu_ratio,
        "time_ratio_min": min(timing.ratios),
        "time_ratio_max": max(timing.ratios),
    }


def add_memory(rows: dict[str, dict[str, Any]], param_bytes: int, num_inner_steps: int) -> None:
    """Measure each variant's memory in a process of its own."""
    options = [*sys.argv[1:], "--inner-steps", str(num_inner_steps), "--memory-of"]

    for name, row in rows.items():
        process = subprocess.run(
            [sys.executable, __file__, *options, name], capture_output=True, text=True, check=False
        )

        if process.returncode != 0:
            lines = process.stderr.strip().splitlines()
            row["memory_error"] = lines[-1] if lines else f"exit status {process.returncode}"

            continue

        row.update(json.loads(process.stdout.splitlines()[-1]))

        for kind in ("", "_rss") if "peak_bytes" in rows[PLAIN] else ():
            extra = row[f"peak{kind}_bytes"] - rows[PLAIN][f"peak{kind}_bytes"]
            row[f"extra{kind}_memory_ratio"] = extra / param_bytes


def print_result(console: Console, result: dict[str, Any]) -> None:
    """Print the table of one K."""
    title = f"K = {result['num_inner_steps']}"
    table = Table(
        title=title,
        padding=(0, 0),
        caption=f"limits: time {TIME_LIMIT}, extra memory {MEMORY_LIMIT}",
    )

    table.add_column("variant", no_wrap=True)

    for heading in (
        "step\n(s)",
        "min-max\n(s)",
        "time /\nplain",
        "min-max",
        "CPU /\nplain",
        "peak\n(MiB)",
        "extra /\nparams",
        "grad\noff by",
    ):
        table.add_column(heading, justify="right", no_wrap=True)

    for name, row in result["variants"].items():
        table.add_row(
            name,
            f"{row['median_s']:.2f}",
            f"{min(row['times_s']):.2f}-{max(row['times_s']):.2f}",
            f"{row['time_ratio']:.3f}",
            f"{row['time_ratio_min']:.2f}-{row['time_ratio_max']:.2f}",
            f"{row['cpu_time_ratio']:.3f}",
            f"{row['peak_bytes'] / 2**20:.0f}" if "peak_bytes" in row else "-",
            f"{row['extra_memory_ratio']:.3f}" if "extra_memory_ratio" in row else "-",
            "-" if row["grad_deviation"] is None else f"{row['grad_deviation']:.1e}",
        )

    console.print(table)

    for name, reason in result["not_run"].items():
        console.print(f"{name} not run: {reason}", markup=False)

    for name, row in result["variants"].items():
        if "memory_error" in row:
            console.print(f"memory of {name} not measured: {row['memory_error']}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
