"""Reads damaged files as a training run does, in a process with little memory that does not outlive a hang.

    python tests/fuzzed_audio_worker.py GOOD_FILES SCRATCH SEED START STOP

writes a line of JSON for each file. A process that ends before its last line was killed by the file after it, which
is left in SCRATCH/START, as is each that shows a fault.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from fuzzed_audio import FuzzedFile, make_fuzzed_file, read_good_files
from torchaudio.functional import resample

import eqssl_speech  # noqa: F401  # Before fairseq2, as it makes libsndfile findable.
from eqssl_speech.data.audio import AudioError, AudioFormat, probe_audio, read_audio
from eqssl_speech.data.batching import BatchPlan, Crop
from eqssl_speech.data.check import check_split
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.loading import BatchLoader, LoadFailure, UtteranceReader, list_utterances
from eqssl_speech.data.manifest import ManifestEntry, write_manifest
from eqssl_speech.error import InputError

TIME_LIMIT_S = 20
"""A file that takes longer ends the process."""

MEMORY_LIMIT = 1 << 30
"""The bytes of address space that a process may take beyond what it starts with."""

READ = "read"
"""The outcome of a file whose samples were read; that of others is the reason of their :class:`AudioError`."""

_STRICT = AudioFormat()
_LENIENT = AudioFormat(resample=True, downmix=True)

_MIN_DURATION_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of a file."""

    index: int
    kind: str
    name: str

    outcome: str
    """``read``, or the reason for which it was refused."""

    fault: str | None
    """What should not have happened, if anything did."""

    duration_s: float
    """The time it took."""

    peak_mib: float
    """The memory that the process has taken so far, beyond what it started with."""


def read_as_a_run_does(file: Path, num_samples: int, fmt: AudioFormat) -> str:
    """Check the header of a file, and load it whole and in part if that is good, and also if it is not.

    :param file: The file.
    :param num_samples: What the manifest says.
    :param fmt: The wanted format.
    :returns: The outcome.
    :raises AssertionError: If samples or messages are not what is promised.
    """
    write_manifest(file.parent / "train.tsv", ".", [ManifestEntry(file.name, num_samples)])
    source = DataSource("fuzzed", "und", "unknown", "unknown", file.parent)

    manifest, report = check_split(
        source, "train", fmt, min_duration_s=_MIN_DURATION_S, full=False, num_workers=1, on_progress=None
    )  # fmt: skip

    if report.bad:
        assert_is_sentence(report.bad[0].message, file)
        # The file may have been whole when it was checked.
        read_without_check(file, manifest.entries[0], fmt)
        return report.bad[0].reason

    failures: list[LoadFailure] = []
    reader = UtteranceReader(fmt, failures.append)
    utterances = list_utterances(source, manifest, report.good, report.num_samples)
    length = report.num_samples[0]

    samples = reader.read(utterances, 0)
    if samples is not None:
        assert_is_audio(samples, length)

    size = min(length, 1600)
    plan = BatchPlan((Crop(0, (length - size) // 3),), size)
    try:
        batch = BatchLoader(reader, normalize=True).load(utterances, plan)
    except InputError:
        assert failures, "nothing was named"
    else:
        assert torch.isfinite(batch.seqs).all(), "a batch is not finite"

    for failure in failures:
        assert_is_sentence(failure.message, file)

    try:
        read_audio(file, manifest.entries[0], fmt)
    except AudioError as ex:
        return ex.reason

    return READ


def read_without_check(file: Path, entry: ManifestEntry, fmt: AudioFormat) -> None:
    """Read a file whose header was refused; that may succeed where it is only too short."""
    try:
        samples = read_audio(file, entry, fmt)
    except AudioError as ex:
        assert_is_sentence(str(ex), file)
    else:
        assert_is_audio(samples, len(samples))


def assert_is_audio(samples: np.ndarray, num_samples: int) -> None:
    """Assert that samples are what is promised."""
    assert samples.dtype == np.float32
    assert samples.shape == (num_samples,)
    assert np.isfinite(samples).all(), "samples are not finite"


def assert_is_sentence(message: str, file: Path) -> None:
    """Assert that a message can be printed on a line, names its file, and does not tell of a lack of memory."""
    assert message.startswith(f"{file}: "), message
    assert message.isprintable(), repr(message)
    assert len(message) < len(str(file)) + 300, message
    assert re.search("malloc|memory", message.removeprefix(str(file))) is None, message


def read_fuzzed_file(fuzzed: FuzzedFile, file: Path) -> str:
    """Read a file with a manifest and wishes from before the damage, and with those that suit it best.

    :returns: The outcome with the latter.
    """
    file.write_bytes(fuzzed.content)

    read_as_a_run_does(file, fuzzed.num_samples, _STRICT)

    try:
        num_samples = probe_audio(file).num_samples
    except AudioError as ex:
        assert_is_sentence(str(ex), file)
        return ex.reason

    return read_as_a_run_does(file, num_samples, _LENIENT)


def main() -> None:
    """Read the files from START to STOP and write what became of them."""
    seed, start, stop = map(int, sys.argv[3:])
    good_files = Path(sys.argv[1])
    # Others may be at work, each with a manifest.
    scratch = Path(sys.argv[2]) / str(start)
    scratch.mkdir()

    torch.set_num_threads(1)
    resample(torch.zeros(1000), 8_000, 16_000)  # Loads what it needs.

    good = read_good_files(good_files)

    limit_memory()
    base = read_memory("VmHWM")

    for index in range(start, stop):
        # Ends the process, whatever it is at.
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
        begin = time.perf_counter()

        fuzzed = make_fuzzed_file(good, seed, index)
        file = scratch / fuzzed.name
        outcome, fault = "", None
        try:
            outcome = read_fuzzed_file(fuzzed, file)
        except BaseException:
            fault = traceback.format_exc()
        else:
            file.unlink()

        signal.setitimer(signal.ITIMER_REAL, 0)

        duration_s = time.perf_counter() - begin
        peak_mib = (read_memory("VmHWM") - base) / 2**20
        line = Outcome(index, fuzzed.kind, fuzzed.name, outcome, fault, duration_s, peak_mib)
        sys.stdout.write(json.dumps(asdict(line)) + "\n")
        sys.stdout.flush()


def limit_memory() -> None:
    """Let allocations fail that go far beyond what the process has now."""
    limit = read_memory("VmSize") + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_memory(name: str) -> int:
    """Return a number of bytes that Linux knows of this process (``VmSize``, ``VmHWM``)."""
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None

    return int(match[1]) << 10


if __name__ == "__main__":
    main()
