"""No damaged audio file ends a run, hangs it or takes its memory: each is read or named for a reason.

The files go through processes with limits of memory and time, so that one which breaks them is known by its number.

    tools/test.sh -n 0 -m slow tests/unit/test_fuzzed_audio.py

prints the table of what became of 12,000 files; ``tests/fuzzed_audio_worker.py`` reads one of them again.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import fuzzed_audio_worker
import pytest
from fuzzed_audio import make_fuzzed_file, read_good_files, write_good_files
from fuzzed_audio_worker import READ, Outcome
from rich import box
from rich.console import Console
from rich.table import Table

from eqssl_speech.data.audio import Reason

FILES_PER_PROCESS = 400

MAX_PEAK_MIB = 512
"""More than the largest filters and blocks take together; a process may have 1024."""


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_good_files(folder)

    return folder


def fuzz(
    good_files: Path, scratch: Path, *, seed: int, count: int, num_processes: int
) -> list[Outcome]:
    """Read damaged files.

    :param good_files: What they are made of.
    :param scratch: Keeps the files that show a fault.
    :param seed: Chooses them.
    :param count: How many.
    :param num_processes: How many at a time.
    """

    def read_chunk(start: int) -> list[Outcome]:
        return list(_read_chunk(good_files, scratch, seed, start, min(start + FILES_PER_PROCESS, count)))  # fmt: skip

    with ThreadPoolExecutor(num_processes) as pool:
        chunks = pool.map(read_chunk, range(0, count, FILES_PER_PROCESS))

        return [outcome for chunk in chunks for outcome in chunk]


def _read_chunk(
    good_files: Path, scratch: Path, seed: int, start: int, stop: int
) -> Iterator[Outcome]:
    while start < stop:
        args = [good_files, scratch, seed, start, stop]
        result = subprocess.run(
            [sys.executable, "-X", "faulthandler", fuzzed_audio_worker.__file__, *map(str, args)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

        outcomes = [Outcome(**json.loads(line)) for line in result.stdout.splitlines()]
        yield from outcomes

        start += len(outcomes)
        if start < stop:
            # Nothing but the next file can have ended it.
            kind, name = _describe_file(good_files, seed, start)
            yield Outcome(start, kind, name, "", _describe_end(result), 0.0, 0.0)
            start += 1


def _describe_file(good_files: Path, seed: int, index: int) -> tuple[str, str]:
    fuzzed = make_fuzzed_file(read_good_files(good_files), seed, index)

    return fuzzed.kind, fuzzed.name


def _describe_end(result: subprocess.CompletedProcess[str]) -> str:
    if result.returncode == -signal.SIGALRM:
        return f"took more than {fuzzed_audio_worker.TIME_LIMIT_S} s"

    # MP3's decoder says much of files that it can read.
    return f"the process ended with {result.returncode}: {result.stderr[-2000:]}"


def render(outcomes: list[Outcome]) -> str:
    """Lay out how many files of each kind were read, or refused for which reason."""
    counts = Counter((outcome.kind, outcome.outcome) for outcome in outcomes)
    total = Counter(outcome.outcome for outcome in outcomes)
    columns = [name for name in [READ, *get_args(Reason), ""] if name in total]

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("damage", no_wrap=True)
    for column in [*columns, "files"]:
        table.add_column((column or "FAULT").replace(" ", "\n"), justify="right")

    kinds = sorted({outcome.kind for outcome in outcomes})
    for kind in kinds:
        row = [counts[kind, column] for column in columns]
        table.add_row(kind, *map(str, [*row, sum(row)]), end_section=kind == kinds[-1])
    table.add_row("all", *(str(total[column]) for column in columns), str(len(outcomes)))

    stream = io.StringIO()
    Console(file=stream, width=140).print(table)

    return stream.getvalue()


def assert_all_are_read_or_named(outcomes: list[Outcome], seed: int) -> None:
    faults = [
        f"seed {seed}, file {o.index} ({o.name}: {o.kind}): {o.fault}" for o in outcomes if o.fault
    ]
    assert faults == [], "\n".join(faults[:10])

    assert {outcome.outcome for outcome in outcomes} <= {READ, *get_args(Reason)}
    assert max(outcome.peak_mib for outcome in outcomes) < MAX_PEAK_MIB

    # Had all been refused, nothing would have been shown of those that are read.
    num_read = sum(outcome.outcome == READ for outcome in outcomes)
    assert 0.1 < num_read / len(outcomes) < 0.9


def test_hundreds_of_damaged_files_are_read_or_named(good_files: Path, tmp_path: Path) -> None:
    outcomes = fuzz(good_files, tmp_path, seed=10, count=320, num_processes=1)

    assert len(outcomes) == 320
    assert_all_are_read_or_named(outcomes, seed=10)


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_named(
    good_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = fuzz(good_files, tmp_path, seed=11, count=12_000, num_processes=2)

    table = render(outcomes)
    with capsys.disabled():
        slowest = max(outcomes, key=lambda outcome: outcome.duration_s)
        peak_mib = max(outcome.peak_mib for outcome in outcomes)
        sys.stdout.write(
            f"\n{table}slowest: {slowest.duration_s:.1f} s ({slowest.kind}); "
            f"most memory of a process beyond its start: {peak_mib:.0f} MiB\n"
        )

    assert len(outcomes) == 12_000
    assert_all_are_read_or_named(outcomes, seed=11)


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ("os.abort()", "Fatal Python error: Aborted"),
        ("signal.raise_signal(signal.SIGALRM)", "took more than 20 s"),
        ("sys.exit(3)", "the process ended with 3"),
    ],
)
def test_file_that_ends_its_process_is_known(
    good_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, fault: str
) -> None:
    line = Outcome(-1, "kind", "name", READ, None, 0.1, 1.0)
    program = tmp_path / "worker.py"
    program.write_text(
        "import json, os, signal, sys\n"
        "for index in range(int(sys.argv[4]), int(sys.argv[5])):\n"
        f"    if index == 5: {end}\n"
        f"    print(json.dumps({asdict(line)} | dict(index=index)), flush=True)\n"
    )
    monkeypatch.setattr(fuzzed_audio_worker, "__file__", str(program))

    outcomes = fuzz(good_files, tmp_path, seed=0, count=8, num_processes=1)

    assert [outcome.index for outcome in outcomes] == list(range(8))
    (bad,) = [outcome for outcome in outcomes if outcome.fault]
    assert bad.index == 5
    assert fault in str(bad.fault)
    assert "FAULT" in render(outcomes)

    with pytest.raises(AssertionError, match=f"seed 0, file 5 .*{fault}"):
        assert_all_are_read_or_named(outcomes, seed=0)
