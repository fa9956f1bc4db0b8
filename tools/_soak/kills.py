"""When runs are killed: drawn at random, so that a run that is killed again and again still gets to its end."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .process import CHECKPOINT_EVERY, PUBLISH_EVERY, Job, Process, SoakError
from .watch import Watch

START_UP: Final = "start-up"
TRAINING: Final = "training"
SAVING: Final = "saving"

_SHARES: Final = {SAVING: 1 / 2, START_UP: 1 / 6}
"""Of the kills; the others come at any time of training. Not every kill meant for a save meets it."""

_STRETCH: Final = 1.5
"""A life takes at most so many times its share of the updates that are left. 2 would spend them all on average."""


@dataclass(frozen=True)
class Pace:
    """How long the uninterrupted run took for what."""

    start_up_s: float
    """From the command to the first metrics."""

    step_s: float
    """An update, with validations and checkpoints."""

    save_s: float
    """A checkpoint, from its first file to its name."""

    total_s: float


@dataclass(frozen=True)
class Kill:
    """A kill, and what was going on."""

    aim: str
    victim: str
    moment_s: float
    """Since the start of the command."""

    step_nr: int
    """The last update whose metrics were published."""

    saved_step_nr: int | None
    """The update whose checkpoint was being written."""

    next_step_nr: int
    """The update that the next life resumes from; 0 starts from nothing."""

    others_ended_s: float | None
    """How long the other ranks lived on, where only one was killed."""


def run_to_end(job: Job, directory: Path, log: Path) -> Pace:
    """Run without a kill, and see how long things take.

    :raises SoakError: If the run fails.
    """
    watch = Watch(directory)
    saves_s: list[float] = []
    first_step_at = math.inf
    saving: int | None = None
    saving_since = 0.0

    def look() -> bool:
        nonlocal first_step_at, saving, saving_since

        now = time.monotonic()

        if first_step_at == math.inf and watch.has_trained():
            first_step_at = now

        if (step_nr := watch.saving()) != saving:
            if saving is not None:
                saves_s.append(now - saving_since)

            saving, saving_since = step_nr, now

        return False

    start = time.monotonic()

    with Process(job, directory, log) as process:
        process.wait_until(look, math.inf)
        process.check_status()

    end = time.monotonic()
    if first_step_at == math.inf or not saves_s:
        raise SoakError("The run that nobody killed has written no metrics or no checkpoint.")

    return Pace(
        start_up_s=first_step_at - start,
        step_s=(end - first_step_at) / job.num_steps,
        save_s=statistics.median(saves_s),
        total_s=end - start,
    )


class Killer:
    """Draws the kills and carries them out."""

    def __init__(self, job: Job, pace: Pace, num_kills: int, seed: int) -> None:
        """
        :param job: What is trained.
        :param pace: How long an uninterrupted run takes.
        :param num_kills: How many kills there will be.
        :param seed: Of the random draws.
        """
        self._job = job
        self._pace = pace
        self._random = random.Random(seed)

        aims = [a for a, share in _SHARES.items() for _ in range(math.ceil(share * num_kills))]
        aims = aims[:num_kills] + [TRAINING] * (num_kills - len(aims))
        self._random.shuffle(aims)

        self._aims = aims

        # With several ranks, a rank or all of them in turn.
        self._one_rank = [job.num_procs > 1 and nr % 2 == 0 for nr in range(num_kills)]

    def run(self, directory: Path, log: Path) -> Kill | None:
        """Let the run live until its next kill.

        :returns: The kill, or ``None`` if the run got to its end before.
        :raises SoakError: If the run fails by itself, or survives.
        """
        aim, one_rank = self._aims.pop(), self._one_rank.pop()

        watch = Watch(directory)

        # What this life may take so that those to come have as much.
        num_lives = len(self._aims) - self._aims.count(START_UP) + 2
        num_steps = _STRETCH * (self._job.num_steps - watch.last_checkpoint()) / num_lives

        with Process(self._job, directory, log) as process:
            if not self._wait(aim, num_steps, process, watch):
                process.check_status()

                return None

            victim, others_ended_s = "all", None
            moment_s = process.age_s

            if one_rank:
                rank = self._random.randrange(self._job.num_procs)
                others_ended_s = process.kill_rank(rank)
                if others_ended_s is not None:
                    victim = f"rank {rank}"
            else:
                process.kill()

        return Kill(
            aim=aim,
            victim=victim,
            moment_s=moment_s,
            step_nr=watch.last_step(),
            saved_step_nr=watch.saving(),
            next_step_nr=watch.last_checkpoint(),
            others_ended_s=others_ended_s,
        )

    def _wait(self, aim: str, num_steps: float, process: Process, watch: Watch) -> bool:
        """Wait for the moment, and say whether the run is still there."""
        pace, draw = self._pace, self._random

        def wait_until(condition: Callable[[], bool]) -> bool:
            return process.wait_until(condition, limit_s=60 + 5 * pace.total_s)

        def wait(duration_s: float, too_late: Callable[[], bool]) -> bool:
            # A machine that has become faster since the uninterrupted run must not outrun the kill.
            end = time.monotonic() + duration_s

            return wait_until(lambda: time.monotonic() >= end or too_late())

        if aim == START_UP:
            return wait(draw.uniform(0, pace.start_up_s), watch.has_trained)

        if aim == TRAINING:
            num_whole, fraction = divmod(draw.uniform(0, num_steps), PUBLISH_EVERY)
            step_nr = watch.last_checkpoint() + PUBLISH_EVERY * int(num_whole)

            return wait_until(
                lambda: watch.has_trained() and watch.last_step() >= step_nr
            ) and wait(fraction * pace.step_s, lambda: watch.last_step() > step_nr + PUBLISH_EVERY)

        num_saves = draw.randint(1, max(1, round(num_steps / CHECKPOINT_EVERY)))
        seen: set[int | None] = {None}

        for _ in range(num_saves):
            if not wait_until(lambda: watch.saving() not in seen):
                return False

            seen.add(watch.saving())

        return wait(draw.uniform(0, pace.save_s), lambda: watch.saving() is None)
