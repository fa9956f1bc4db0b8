"""A training run as a user starts it, and ways to kill it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from typing_extensions import Self

REPOSITORY: Final = Path(__file__).resolve().parents[2]

CHECKPOINT_EVERY: Final = 4

PUBLISH_EVERY: Final = 2
"""In updates. A divisor of the above, since a resumed run begins its averages anew, and not where they were."""

SETTINGS: Final[dict[str, object]] = {
    "model.arch": "micro",
    "dataset.corpus": REPOSITORY / "recipes" / "quickstart" / "corpus",
    "dataset.sources": "[ru-festvox, es-drascula]",
    "dataset.audio_seconds_per_update": 12,
    "validation.num_adaptation_steps": 1,
    "validation.max_num_batches": 1,
    "validation.audio_seconds_per_batch": 8,
    "optimizer.config.lr": 0.001,
    "lr_scheduler.config.num_warmup_steps": 2,
    "trainer.max_grad_norm": 1.0,
    "regime.validate_every_n_steps": 10,
    "regime.checkpoint_every_n_steps": CHECKPOINT_EVERY,
    "regime.keep_last_n_checkpoints": 2,
    "regime.publish_metrics_every_n_steps": PUBLISH_EVERY,
    "common.torch.num_threads": 1,
    "common.metric_recorders.tensorboard.enabled": "false",
}
"""A run of seconds that validates between checkpoints and at them, and deletes old ones."""

REGIMES: Final[dict[str, dict[str, object]]] = {
    "equilibrium": {"equilibrium.num_inner_steps": 1},
    "none": {"equilibrium": "null"},
}

GRACE_S: Final = 60.0
"""How long a rank that died may take to bring the others down."""

_POLL_S: Final = 0.001


class SoakError(Exception):
    """Raised when a run does what none may do, whatever killed the one before it."""


@dataclass(frozen=True)
class Job:
    """What is trained."""

    num_procs: int

    num_steps: int

    regime: str
    """A key of :data:`REGIMES`."""

    def command(self, directory: Path) -> list[str]:
        """Return the command line of the run whose output directory is ``directory``."""
        settings = SETTINGS | REGIMES[self.regime] | {"regime.num_steps": self.num_steps}

        launcher = [sys.executable]
        if self.num_procs > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
            launcher += [str(self.num_procs)]

        return [
            *launcher,
            *("-m", "eqssl_speech", "pretrain", "--no-rich", str(directory), "--config"),
            *(f"{key}={value}" for key, value in settings.items()),
        ]


class Process:
    """A run that ends at the latest with the ``with`` block that it is used in."""

    def __init__(self, job: Job, directory: Path, log: Path) -> None:
        """
        :param job: What is trained.
        :param directory: The output directory.
        :param log: Takes what the run prints.
        """
        self.log = log
        self.started_at = time.time()

        env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

        with log.open("wb") as stream:
            self._popen = subprocess.Popen(
                job.command(directory),
                cwd=REPOSITORY,  # Its package, whichever is installed.
                env=env,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this tool, which then cleans up.
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def age_s(self) -> float:
        """The seconds since the start."""
        return time.time() - self.started_at

    def wait(self, limit_s: float) -> None:
        """Wait for the run to end as it should.

        :raises SoakError: If it fails or hangs.
        """
        if self.outlives(limit_s):
            raise SoakError(
                f"The run is not done after {limit_s:.0f} s; it prints:\n{self._tail()}"
            )

        self.check_status()

    def outlives(self, duration_s: float) -> bool:
        """Wait, and say whether the run is still there."""
        try:
            self._popen.wait(duration_s)
        except subprocess.TimeoutExpired:
            return True

        return False

    def wait_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Wait for something, and say whether the run is still there.

        :raises SoakError: If it takes longer than ``limit_s``.
        """
        end = time.monotonic() + limit_s

        while self._popen.poll() is None:
            if condition():
                return True

            if time.monotonic() > end:
                raise SoakError(f"The run hangs for {limit_s:.0f} s; it prints:\n{self._tail()}")

            time.sleep(_POLL_S)

        return False

    def check_status(self) -> None:
        """Make sure that a run that ended by itself did so as it should.

        :raises SoakError: If it failed.
        """
        status = self._popen.returncode
        if status != 0:
            raise SoakError(f"The run ended with status {status}:\n{self._tail()}")

    def kill(self) -> None:
        """Kill every process of the run at once, and wait until they are gone."""
        processes = self._tree()

        # The workers of torchrun have sessions of their own, so a signal to its group does not reach them.
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

        self._popen.wait()

        _wait_for_end(processes, GRACE_S)

    def kill_rank(self, rank: int) -> float | None:
        """Kill one rank only, and wait until the others have ended.

        :returns: The seconds that they took; ``None`` if the rank was not there yet, and all were killed.
        :raises SoakError: If they do not end.
        """
        processes = self._tree()

        victims = [p for p in processes[1:] if _get_rank(p) == str(rank)]
        if not victims:
            self.kill()

            return None

        _resume(processes)

        start = time.monotonic()

        victims[0].kill()

        if self.outlives(GRACE_S) or _wait_for_end(processes, GRACE_S):
            self.kill()

            raise SoakError(
                f"The others are still there {GRACE_S:.0f} s after rank {rank} was killed; they print:\n{self._tail()}"
            )

        return time.monotonic() - start

    def _tree(self) -> list[psutil.Process]:
        """Return the processes of the run, stopped, so that none starts another."""
        if self._popen.poll() is not None:
            return []

        root = psutil.Process(self._popen.pid)
        root.suspend()

        return [root, *root.children(recursive=True)]

    def _tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()

        return "\n".join(f"  {line}" for line in lines[-25:])


def _resume(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def _get_rank(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RANK")
    except psutil.Error:
        return None


def _wait_for_end(processes: Iterable[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Wait for processes that are no children of this one, and return those that are still there."""
    end = time.monotonic() + limit_s

    while (alive := [p for p in processes if _is_alive(p)]) and time.monotonic() < end:
        time.sleep(0.01)

    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        # Where nobody collects orphans, a zombie is all that is left of one.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
