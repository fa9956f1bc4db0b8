"""Runs of the pre-training recipe in a directory of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipe_runs import Run, run_pretrain


@pytest.fixture
def pretrain(tmp_path: Path) -> Callable[..., Run]:
    def run(name: str, overrides: dict[str, Any] | None = None, **kwargs: Any) -> Run:
        return run_pretrain(tmp_path / name, overrides, **kwargs)

    return run
