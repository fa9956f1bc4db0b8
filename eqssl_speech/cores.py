"""The cores that this process may use."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Return how many there are, at least 1; of a job of a cluster, those that it was given."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))

    return os.cpu_count() or 1
