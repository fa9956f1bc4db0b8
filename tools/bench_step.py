#!/usr/bin/env python3
"""What a training step of wav2vec 2.0 costs: the host recipe's model against ours, by part and in all.

    .venv/bin/python tools/bench_step.py                                   # tiny, on the CPU
    .venv/bin/python tools/bench_step.py --sizes tiny,base --threads 1 --json step.json
    .venv/bin/python tools/bench_step.py --sizes base,large --device cuda --dtype bfloat16 --batch 8x15s
    .venv/bin/python tools/bench_step.py --parts 'contrast,quantizer + contrast' --repeats 30
    .venv/bin/python tools/bench_step.py --parts '' --profile              # where our step spends its time

Numbers first: loss, logits and the gradient of each parameter of the whole step are compared, with TF32 off. In float32
they may differ by 1e-4 of the host's (in norm). In bfloat16 they are only printed: features that differ by rounding
make the quantizer draw other codes here and there, whatever computes them.
Time second: one process, two models with the same weights, the same batch and the same random numbers; the sides take
turns. A speed-up is the median, over the rounds, of the host's time over ours of the same round; that of processor
times stands beside it (`CPU`), which other jobs on the machine disturb less (on the CPU, with `--threads 1`). A part is
fed with what it meets in a whole step and its backward pass with a random gradient. `contrast` draws distractors and
computes logits and cross entropy, without the projections before them; `quantizer + contrast` is all that follows the
encoder, with the projections. `whole step` is forward and backward; AdamW stands by itself.
Memory: the peak of live tensors over a forward and a backward pass of the part, less what lives before.

The host is fairseq2's model as it comes: its quantizer compiles a function, once for the first number of targets and
once more, for any number, when another one comes (far from the limit of dynamo's cache, which is emptied before each
size). Rounds in which the compiler runs do not count. What compiling costs is a row of its own, `start-up`: the first
step, in a new process with an empty compiler cache. For clean numbers let nothing else run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import eqssl_speech  # isort: skip  # Finds libsndfile before fairseq2 is imported.

import torch
from _bench.agreement import compare_numbers
from _bench.job import parse_batch
from _bench.memory import peak_bytes
from _bench.parts import CONTRAST, PARTS, QUANTIZER_AND_CONTRAST, WHOLE_STEP, record_step
from _bench.peaks import count_targets, measure_peaks, part_costs
from _bench.rounds import Comparison, Run, Stopwatch, compare_times, optimizer_run, part_run
from _bench.sides import DEFAULT_BATCHES, DTYPES, HOST, OURS, Side, StepSpec
from _bench.tables import print_numbers, print_operators, print_parts
from fairseq2.recipe.config import AdamWConfig
from rich.console import Console

from eqssl_speech.tasks.pretrain.config import PretrainConfig

MAX_DIFFERENCE: Final = 1e-4
"""Of loss, logits and gradients in float32, relative to the host's."""

NUM_COMPARED_STEPS: Final = 2
"""Steps whose numbers are compared."""

NUM_OPERATORS: Final = 15
"""How many operators ``--profile`` prints."""

START_UP: Final = "start-up"

OPTIMIZER_STEP: Final = "optimizer step"

ALL_PARTS: Final = (START_UP, *PARTS, OPTIMIZER_STEP)


@dataclass(frozen=True)
class Limit:
    """What a part must reach, forward and backward together: how many times less than the host's."""

    time: float

    memory: float | None = None


LIMITS: Final = {
    **{(size, CONTRAST): Limit(50.0) for size in DEFAULT_BATCHES},
    **{(size, QUANTIZER_AND_CONTRAST): Limit(20.0, memory=10.0) for size in DEFAULT_BATCHES},
    ("tiny", WHOLE_STEP): Limit(1.7),
    ("base", WHOLE_STEP): Limit(1.15),
}
"""The limits of the issue, by size and part."""


def main() -> int:
    """Run the benchmark; exit status 1 where numbers differ or a limit is missed."""
    args = parse_args()

    torch._dynamo.config.disable = args.no_compiler

    if args.threads:
        torch.set_num_threads(args.threads)

    specs = [
        StepSpec(size=size, device=args.device, batch=args.batch[size], dtype=args.dtype)
        for size in args.sizes
    ]

    if args.start_up_of is not None:
        print(json.dumps(time_first_steps(Side(args.start_up_of, specs[0]))))

        return 0

    console = Console(width=None if sys.stdout.isatty() else 100)
    report = describe(args)

    console.print(
        f"{report['device']}, threads: {report['num_threads']}, torch {report['torch']}",
        style="dim",
    )

    for spec in specs:
        result = measure(spec, args, console)

        report["results"].append(result)

        if args.json is not None:
            args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    return 0 if all(r["numbers_agree"] and r["within_limits"] for r in report["results"]) else 1


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", default="tiny", help="comma-separated, of tiny, base, large")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=list(DTYPES), default="float32", help="bfloat16: autocast")
    add(
        "--batch",
        default="",
        help="utterances x seconds: 2x5s for all sizes, or tiny=8x4s,base=2x5s for some "
        f"(default: {','.join(f'{k}={v}' for k, v in DEFAULT_BATCHES.items())})",
    )
    add("--parts", default=",".join(ALL_PARTS), help="comma-separated (default: %(default)s)")
    add("--repeats", type=int, default=10, help="rounds in which each side takes its turn")
    add("--threads", type=int, help="of torch (default: torch's choice)")
    add("--no-compiler", action="store_true", help="run the host's quantizer as it stands")
    add("--profile", action="store_true", help="print the largest operators of our step")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--start-up-of", choices=[HOST, OURS], help=argparse.SUPPRESS)  # The child process.
    args = parser.parse_args()

    try:
        args.sizes = parse_names("--sizes", args.sizes, tuple(DEFAULT_BATCHES))
        args.parts = parse_names("--parts", args.parts, ALL_PARTS)
        args.batch = parse_batches(args.batch)
    except ValueError as ex:
        parser.error(str(ex))

    if args.repeats < 1:
        parser.error(f"`--repeats` must be at least 1, but is {args.repeats} instead.")

    return args


def parse_names(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Read a comma-separated list.

    :raises ValueError: If a name is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]

    for name in names:
        if name not in known:
            raise ValueError(f"`{option}` must name some of {', '.join(known)}, but has {name}.")

    return names


def parse_batches(text: str) -> dict[str, str]:
    """Read ``2x5s`` or ``tiny=8x4s,base=2x5s``.

    :returns: The batch of each size.
    :raises ValueError: If it is something else.
    """
    batches = dict(DEFAULT_BATCHES)

    for entry in text.split(",") if text else ():
        size, _, batch = entry.rpartition("=")

        parse_names("--batch", size, tuple(DEFAULT_BATCHES))
        parse_batch(batch)

        batches.update({size: batch} if size else dict.fromkeys(batches, batch))

    return batches


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """Say what is measured on what."""
    on_gpu = args.device == "cuda"

    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "dtype": args.dtype,
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "eqssl_speech": eqssl_speech.__version__,
        "compiler": not args.no_compiler,
        "num_repeats": args.repeats,
        "max_difference": MAX_DIFFERENCE,
        "results": [],
    }


def measure(spec: StepSpec, args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure a size and print what comes out."""
    torch._dynamo.reset()

    with console.status(f"{spec.size}: numbers"):
        sides = {name: Side(name, spec) for name in (HOST, OURS)}
        sides[OURS].model.load_state_dict(sides[HOST].model.state_dict())

        numbers = compare_sides(sides)

    result = {
        **asdict(spec),
        "num_params": sum(p.numel() for p in sides[HOST].model.parameters()),
        **numbers,
        "parts": {},
    }

    print_numbers(console, result, MAX_DIFFERENCE)

    for name in args.parts:
        with console.status(f"{spec.size}: {name}"):
            result["parts"][name] = measure_part(name, sides, args)

    with console.status(f"{spec.size}: peaks of the device"):
        result |= compare_with_peaks(sides[OURS], result["parts"])

    result["within_limits"] = all(p.get("within_limit", True) for p in result["parts"].values())

    if args.parts:
        print_parts(console, result)

    if args.profile:
        print_operators(console, sides[OURS], NUM_OPERATORS)

    return result


def compare_sides(sides: dict[str, Side]) -> dict[str, Any]:
    """Compare the numbers of a few steps; the worst of them are returned."""
    set_tf32(False)

    agreements = [
        compare_numbers(sides[HOST], sides[OURS], seed) for seed in range(NUM_COMPARED_STEPS)
    ]

    # As in the host's recipes.
    set_tf32(True)

    in_float32 = sides[HOST].spec.dtype == "float32"

    return {
        "differences": [asdict(a) for a in agreements],
        "numbers_agree": not in_float32 or all(a.largest <= MAX_DIFFERENCE for a in agreements),
    }


def set_tf32(allow: bool) -> None:
    """Say whether a GPU may round the factors of float32 products."""
    if torch.cuda.is_available():
        torch.backends.fp32_precision = "tf32" if allow else "ieee"  # type: ignore[attr-defined]


def measure_part(name: str, sides: dict[str, Side], args: argparse.Namespace) -> dict[str, Any]:
    """Measure a part: time by pass, memory, and whether it is within its limit."""
    if name == START_UP:
        return compare_start_up(sides[HOST].spec)

    run = create_run(name, sides)
    comparison = compare_times(run, sides, args.repeats)

    row = {**to_rows(name, comparison), "peak_bytes": measure_memory(run, sides)}

    limit = LIMITS.get((sides[HOST].spec.size, name))

    if limit is not None:
        host_bytes, our_bytes = row["peak_bytes"][HOST], row["peak_bytes"][OURS]

        row["limit"] = asdict(limit)
        row["within_limit"] = row["both"]["speedup"] >= limit.time and (
            limit.memory is None or our_bytes * limit.memory <= host_bytes
        )

    return row


def compare_with_peaks(side: Side, parts: dict[str, Any]) -> dict[str, Any]:
    """Measure the device, and note for each part that the cost model has how near each side comes to its limit."""
    peaks = measure_peaks(side)
    costs = part_costs(side, count_targets(side))

    for name, cost in costs.items():
        if name in parts:
            least_s = peaks.least_time_s(cost, DTYPES[side.spec.dtype].itemsize)

            parts[name]["cost"] = asdict(cost)
            parts[name]["share_of_peak"] = {
                n: least_s / median_s for n, median_s in parts[name]["both"]["median_s"].items()
            }

    return {"peaks": asdict(peaks)}


def create_run(name: str, sides: dict[str, Side]) -> Run:
    """Return what does a part."""
    if name in PARTS:
        return part_run(PARTS[name], {n: record_step(side, seed=0) for n, side in sides.items()})

    config = PretrainConfig().optimizer.config

    assert isinstance(config, AdamWConfig)

    # The host's recipes leave the choice to torch.
    return optimizer_run(sides, {HOST: replace(config, impl="auto"), OURS: config})


def to_rows(name: str, comparison: Comparison) -> dict[str, Any]:
    """Return the times of each pass."""
    both = {"both": comparison.to_row(slice(None))}

    if name == OPTIMIZER_STEP:
        return both

    return {
        **both,
        "forward": comparison.to_row(slice(0, 1)),
        "backward": comparison.to_row(slice(1, 2)),
    }


def measure_memory(run: Run, sides: dict[str, Side]) -> dict[str, int]:
    """Return the peak of each side."""
    return {
        name: peak_bytes(side.spec.device, partial(run, side, 0, Stopwatch(side.device)))
        for name, side in sides.items()
    }


def compare_start_up(spec: StepSpec) -> dict[str, Any]:
    """Take the first steps of each side in a process of its own, with nothing compiled before."""
    times = {}

    for name in (HOST, OURS):
        options = ["--sizes", spec.size, "--start-up-of", name]

        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], *options],
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )

        times[name] = json.loads(process.stdout.splitlines()[-1])

    first_s = {name: steps[0] for name, steps in times.items()}

    return {
        "both": {
            "median_s": first_s,
            "speedup": first_s[HOST] / first_s[OURS],
            "times_s": times,
        }
    }


def time_first_steps(side: Side) -> list[float]:
    """Return the times of two steps, of which only the first has to get ready."""
    watch = Stopwatch(side.device)

    for seed in range(2):
        with watch.lap():
            side.take_step(seed)

    return watch.times_s


if __name__ == "__main__":
    sys.exit(main())
