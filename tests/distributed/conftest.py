"""Runs on several gloo processes."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def torchrun() -> list[str]:
    """The launcher of two processes; a module and its arguments follow."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
