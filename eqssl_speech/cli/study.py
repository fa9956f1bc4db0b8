"""``eqssl study``: many trainings that are compared."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, positive_int
from eqssl_speech.cores import num_cores

if TYPE_CHECKING:
    from eqssl_speech.study.jobs import Job
    from eqssl_speech.study.runner import StudyProgress
    from eqssl_speech.study.state import Judgement, StudyState

_STUDY: Final = """\
Run what a file lists: pre-trainings by family, regime and seed, each fine-tuned on several languages, evaluated, and
adapted to sources that it has and has not seen; then print the tables, with intervals.

The cells are run in the order of the file. What is done is not done again, and what was interrupted goes on, so that a
study may take days, and its tables are there from the first cells on. A job that fails is named, and the others go on.
Jobs that were done with another command, configuration file or corpus are not mixed with the others: `--redo` does them
again, with all that was made of them.

examples:
  eqssl study recipes/equilibrium_study/study.yaml corpora/debian_speech studies/equilibrium
  eqssl study my.yaml corpora/mine studies/mine --list          only say what would be run
  eqssl study my.yaml corpora/mine studies/mine --workers 8     on a machine with 8 GPUs
  eqssl study my.yaml corpora/mine studies/mine --tables        only print the tables of what is there
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "study", _STUDY, "many trainings that are compared")

    parser.add_argument("file", metavar="FILE", type=Path, help="what the study consists of (YAML)")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the study")
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive_int,
        help="jobs run at once (default: one for each GPU, or for each CPU core where there is none)",
    )

    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--redo", action="store_true", help="do again what was done with other settings or data"
    )
    only.add_argument(
        "--list",
        action="store_true",
        help="list the jobs: done, stale, or done but perhaps stale (done?)",
    )
    only.add_argument("--tables", action="store_true", help="only print the tables")

    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.error import InputError
    from eqssl_speech.study.planner import Planner
    from eqssl_speech.study.results import write_results
    from eqssl_speech.study.state import StudyState
    from eqssl_speech.study.study_file import read_study, require_sources
    from eqssl_speech.study.tables import render_results

    study = read_study(options.file)
    require_sources(options.file, study, options.corpus)

    # Jobs are started elsewhere than here, perhaps another day.
    directory, corpus, out = (
        path.resolve() for path in (options.file.parent, options.corpus, options.out)
    )
    planner = Planner(study, directory, corpus, out)
    jobs = planner.list_jobs()

    if options.tables and not out.is_dir():
        raise InputError(f"{options.out}: there is no such directory; correct the path.")

    state = StudyState(directory, corpus, out)

    if options.list:
        _list(state, jobs)

        return 0

    failed: list[str] = []

    def write() -> tuple[dict[str, Any], Judgement]:
        judgement = state.judge(jobs)
        # What is of other settings than are now chosen is not mixed with the rest, nor what may be.
        state.set_aside({*judgement.undecided, *(job.name for job in judgement.stale)})

        return write_results(study, planner, state, out), judgement

    if not options.tables:
        _refuse_or_redo(options, state, jobs)

        try:
            failed = _run_all(options, out, state, jobs)
        except KeyboardInterrupt:
            with suppress(InputError):
                write()

            raise

    results, judgement = write()

    print(render_results(results))

    for name in failed:
        print(f"Failed: {name}; {state.find(name, 'log')} says why.", file=sys.stderr)

    if judgement.undecided:
        print(
            f"In no table: {len(judgement.undecided)} of the jobs that are done or begun, the first of them "
            f"{judgement.undecided[0]}, which wait for what tuning comes to.",
            file=sys.stderr,
        )

    if judgement.stale:
        print(
            f"In no table: {_describe_stale(judgement.stale)}; do them again with `--redo`.",
            file=sys.stderr,
        )

    return 1 if failed or (judgement.stale and not options.tables) else 0


def _list(state: StudyState, jobs: Sequence[Job]) -> None:
    judgement = state.judge(jobs)
    stale, undecided = {job.name for job in judgement.stale}, set(judgement.undecided)

    for job in jobs:
        if job.name in stale:
            status = "stale"
        elif job.name in undecided:
            status = "done?"
        else:
            status = "done" if state.read(job.name) else ""

        print(f"{status:5}  {job.name}")


def _describe_stale(stale: Sequence[Job]) -> str:
    return (
        f"{len(stale)} of the jobs that are done or begun, the first of them {stale[0].name}, have other settings, "
        "configuration files or data than there are now"
    )


def _refuse_or_redo(options: Namespace, state: StudyState, jobs: Sequence[Job]) -> None:
    from eqssl_speech.error import InputError

    stale = state.judge(jobs).stale
    if not stale:
        return

    if not options.redo:
        raise InputError(
            f"{options.out}: {_describe_stale(stale)}; do them again with `--redo`, or choose another directory."
        )

    with state.lock():
        for job in stale:
            state.forget(job)


def _run_all(options: Namespace, out: Path, state: StudyState, jobs: Sequence[Job]) -> list[str]:
    """Run all jobs; first, those that decide whether what is done has the settings that are chosen now."""
    from eqssl_speech.study.jobs import list_after, list_before

    failed: list[str] = []

    while True:
        judgement = state.judge(jobs)
        stale = [job.name for job in judgement.stale]
        # One stage of tuning after the other: the choice of one may make the runs of the next stale.
        left_out = list_after(jobs, {*failed, *judgement.undecided, *stale})
        first = [job for job in list_before(jobs, judgement.undecided) if job.name not in left_out]

        if all(state.read(job.name) for job in first):
            break

        failed += _run_jobs(options, out, state, first)

        if options.redo:
            _refuse_or_redo(options, state, jobs)

    return failed + _run_jobs(
        options, out, state, [job for job in jobs if job.name not in left_out]
    )


def _run_jobs(options: Namespace, out: Path, state: StudyState, jobs: Sequence[Job]) -> list[str]:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from eqssl_speech.study.runner import StudyRunner
    from eqssl_speech.study.version import find_version
    from eqssl_speech.tasks.time_left import format_time_left

    num_gpus = torch.cuda.device_count()
    # Of those that this process may see.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(num_gpus)]
    num_workers = options.workers or num_gpus or num_cores()

    # Each worker has a GPU of its own, or its share of the cores.
    threads = str(max(1, num_cores() // num_workers))
    environment = [
        {"OMP_NUM_THREADS": threads}
        | ({"CUDA_VISIBLE_DEVICES": gpus[i % num_gpus]} if num_gpus else {})
        for i in range(num_workers)
    ]

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )

    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("study", total=len(jobs), left="")
        known: set[str] = set()

        def show(progress: StudyProgress) -> None:
            left = progress.time_left_s
            bar.update(
                task,
                completed=progress.num_done + len(progress.failed),
                left="" if left is None else f"about {format_time_left(left)} left",
            )

            for name in progress.running:
                if name not in known:
                    known.add(name)
                    bar.console.print(
                        f"[{progress.num_done}/{progress.num_jobs}] {name}", markup=False
                    )

        runner = StudyRunner(
            state,
            out=out,
            num_workers=num_workers,
            find_version=find_version,
            environment=environment,
            on_progress=show,
        )

        return runner.run(jobs)
