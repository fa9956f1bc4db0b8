"""What a run does, read off its output directory while it lives."""

from __future__ import annotations

import re
import time
from pathlib import Path


class Watch:
    """Looks at an output directory from the start of a run on; what earlier runs left there does not count."""

    def __init__(self, directory: Path) -> None:
        """:param directory: The output directory; it need not exist."""
        self._checkpoints = directory / "checkpoints"
        self._metrics = directory / "metrics" / "train.jsonl"
        self._started_at = time.time()
        self._num_bytes = self._count_bytes()

    def has_trained(self) -> bool:
        """Whether the run has published metrics."""
        return self._count_bytes() > self._num_bytes

    def last_step(self) -> int:
        """The last update whose metrics were published, by whichever run."""
        try:
            with self._metrics.open("rb") as stream:
                stream.seek(max(self._count_bytes() - 10_000, 0))

                return int(re.findall(rb'"Step": (\d+)', stream.read())[-1])
        except (OSError, IndexError):
            return 0

    def last_checkpoint(self) -> int:
        """The update of the last complete checkpoint, which a run started now resumes from; 0 without any."""
        names = (path.name for path in self._checkpoints.glob("step_*"))

        return max((int(n[5:]) for n in names if n[5:].isdecimal()), default=0)

    def saving(self) -> int | None:
        """The update whose checkpoint the run is writing, if it is."""
        for directory in self._checkpoints.glob("step_*.tmp"):
            try:
                changed_at = directory.stat().st_mtime
            except FileNotFoundError:  # Complete by now.
                continue

            if changed_at >= self._started_at:
                return int(directory.stem[5:])

        return None

    def _count_bytes(self) -> int:
        try:
            return self._metrics.stat().st_size
        except FileNotFoundError:
            return 0
