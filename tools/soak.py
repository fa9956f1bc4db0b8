#!/usr/bin/env python3
"""Kill a training again and again, and see that it ends where it would have ended anyway, to the last bit.

    .venv/bin/python tools/soak.py --kills 2 --steps 12                  # a quick look
    .venv/bin/python tools/soak.py --kills 30 --steps 200 --procs 2
    .venv/bin/python tools/soak.py --regime none --seed 1 --keep runs/soak

Run: `eqssl pretrain` on the sample in recipes/quickstart/corpus, with the smallest architecture, K = 1 or conventional
(`--regime none`), on the CPU. It writes a checkpoint every 4 updates and keeps the last 2, validates every 10 and
publishes its metrics every 2. With `--procs 2`, torchrun starts it on gloo.

Kills: SIGKILL at moments drawn from `--seed`. A life of the run ends while it starts up or loads its checkpoint (one
of 6), at any time of training (one of 3), or while a checkpoint is being written (one of 2; that the half-written
directory stays behind tells whether the kill was in time). With 2 processes every other kill, if the ranks are there
yet, is of one rank only, which has to bring the others down within a minute. The same command then starts the next
life, and the one after the last kill goes on to the end.

Compared with a run that nobody killed: the files of the last checkpoint, tensor by tensor, and the metrics of each
step (the last line counts where a life repeats what one before it had done). What tells the time is left out; the
list is printed.

Exit status: 0 if nothing differs, 1 if something does, or a life fails or hangs, 2 for a wrong argument.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import eqssl_speech  # noqa: F401  # isort: skip  # Finds libsndfile before fairseq2 is imported.

from _soak.kills import Kill, Killer, Pace, run_to_end
from _soak.process import REGIMES, Job, Process, SoakError
from _soak.remains import TIMES_OF_METRICS, TIMES_OF_STATES, Remains, find_differences, read_remains
from rich import box
from rich.console import Console
from rich.table import Table

from eqssl_speech.error import InputError
from eqssl_speech.tasks.time_left import format_time_left


def main() -> int:
    """Run the test."""
    args = parse_args()

    signal.signal(signal.SIGTERM, end)  # As Ctrl-C: what runs is killed, what was written goes.

    try:
        with ExitStack() as stack:
            work = args.keep or Path(stack.enter_context(TemporaryDirectory(prefix="soak-")))

            return soak(args, work)
    except (SoakError, InputError) as ex:
        print(ex, file=sys.stderr)

        return 1
    except KeyboardInterrupt:
        return 130


def end(signal_nr: int, _: FrameType | None) -> None:
    """End the process by an exception, so that everything is cleaned up."""
    sys.exit(128 + signal_nr)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kills", type=int, default=30, metavar="N", help="default: %(default)s")
    add("--steps", type=int, default=200, metavar="N", help="updates (default: %(default)s)")
    add("--procs", type=int, choices=(1, 2), default=1, help="default: %(default)s")
    add("--regime", choices=sorted(REGIMES), default="equilibrium", help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    add("--keep", type=Path, metavar="DIR", help="keep what the runs write, in a new directory")
    args = parser.parse_args()

    if args.kills < 1 or args.steps < 4:
        parser.error("`--kills` must be at least 1, and `--steps` at least 4, one checkpoint.")

    if args.keep is not None:
        if args.keep.exists() and (not args.keep.is_dir() or any(args.keep.iterdir())):
            parser.error(f"`--keep`: {args.keep} exists; name a new directory.")

        args.keep = args.keep.resolve()

    return args


def soak(args: argparse.Namespace, work: Path) -> int:
    """Run both trainings in a directory, compare them, and return the exit status."""
    job = Job(args.procs, args.steps, args.regime)
    console = Console(width=120)

    logs = work / "logs"
    logs.mkdir(parents=True)

    say(f"{args.steps} updates without a kill")

    pace = run_to_end(job, work / "whole", logs / "whole.log")

    console.print(
        f"{args.procs} process(es), regime {args.regime}, seed {args.seed}. Without a kill, {args.steps} updates took "
        f"{pace.total_s:.1f} s: {pace.start_up_s:.1f} s until the first metrics, {pace.step_s:.3f} s an update; a save "
        f"took {1000 * pace.save_s:.0f} ms."
    )

    kills: list[Kill] = []
    try:
        kill_again_and_again(args, job, pace, work, kills)
    except SoakError as ex:
        print_kills(console, kills)

        raise SoakError(f"After {len(kills)} kills: {ex}") from None

    whole, killed = (read_remains(work / name, args.steps) for name in ("whole", "killed"))

    print_kills(console, kills)
    print_digests(console, whole, killed)

    differences = find_differences(whole, killed)

    num_saving = sum(kill.saved_step_nr is not None for kill in kills)
    after = f"after {len(kills)} kills, {num_saving} of them while a checkpoint was being written"

    if differences:
        console.print(f"DIFFERENT {after}: {len(differences)} value(s), first {differences[0]}")
    else:
        console.print(f"EQUAL to the last bit {after}.")

    return 1 if differences else 0


def kill_again_and_again(
    args: argparse.Namespace, job: Job, pace: Pace, work: Path, kills: list[Kill]
) -> None:
    """Run and kill the second training until there are no kills left, then let it get to its end.

    :param kills: Takes them as they come.
    :raises SoakError: If a life fails or hangs, or there is nothing left to kill.
    """
    killer = Killer(job, pace, args.kills, args.seed)
    killed, logs = work / "killed", work / "logs"
    start = time.monotonic()

    for nr in range(1, args.kills + 1):
        kill = killer.run(killed, logs / f"life_{nr}.log")
        if kill is None:
            raise SoakError("The run got to its end; ask for fewer, or for more `--steps`.")

        kills.append(kill)

        lives_s = (args.kills - nr) * (time.monotonic() - start) / nr
        rest_s = (
            pace.start_up_s + (args.steps - kill.next_step_nr) / (args.kills - nr + 1) * pace.step_s
        )

        say(
            f"kill {nr} of {args.kills} after {kill.moment_s:.1f} s, at step {kill.step_nr}; "
            f"about {format_time_left(lives_s + rest_s)} left"
        )

    with Process(job, killed, logs / "last_life.log") as process:
        process.wait(60 + 5 * pace.total_s)


def say(line: str) -> None:
    """Tell whoever waits how far it is."""
    print(line, file=sys.stderr, flush=True)


def print_kills(console: Console, kills: list[Kill]) -> None:
    """Print a line for each kill."""
    table = Table(
        title="kills; the step is the last one whose metrics were published",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )

    for heading in (
        "kill",
        "moment\n(s)",
        "meant for",
        "killed",
        "others ended\nafter (s)",
        "step",
        "half-written\ncheckpoint",
        "resumed\nfrom step",
    ):
        is_text = heading in ("meant for", "killed")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)

    for nr, kill in enumerate(kills, start=1):
        table.add_row(
            str(nr),
            f"{kill.moment_s:.3f}",
            kill.aim,
            kill.victim,
            "-" if kill.others_ended_s is None else f"{kill.others_ended_s:.1f}",
            str(kill.step_nr),
            "-" if kill.saved_step_nr is None else f"step_{kill.saved_step_nr}",
            str(kill.next_step_nr),
        )

    console.print(table)


def print_digests(console: Console, whole: Remains, killed: Remains) -> None:
    """Print what was compared."""
    table = Table(title="SHA-256 of what the runs leave", title_justify="left", box=box.SIMPLE_HEAD)

    for heading in ("", "values", "run", "digest"):
        table.add_column(heading, justify="right" if heading == "values" else "left", no_wrap=True)

    for part, values in whole.parts.items():
        table.add_row(part, str(len(values)), "uninterrupted", whole.digest(part))
        table.add_row("", str(len(killed.parts[part])), "killed", killed.digest(part))

    console.print(table)
    console.print(
        f"Left out, as they tell the time: {', '.join((*TIMES_OF_METRICS, *TIMES_OF_STATES))}.\n"
        f"Lines of metrics that a later life wrote again: {killed.num_repeated_lines}."
    )


if __name__ == "__main__":
    sys.exit(main())
