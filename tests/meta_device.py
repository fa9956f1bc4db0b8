"""The device ``meta`` as a training step needs it: what would wait for a value raises there, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import torch

META: Final = torch.device("meta")


@contextmanager
def complete_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the device what torch leaves out: autocast, and the gradient of the weight norm."""
    autocast = torch.autocast

    def on_cpu(device_type: str, **kwargs: Any) -> torch.autocast:
        return autocast("cpu" if device_type == "meta" else device_type, **kwargs)

    monkeypatch.setattr(torch, "autocast", on_cpu)

    library = torch.library.Library("aten", "IMPL", "Meta")

    library.impl(
        "_weight_norm_interface_backward",
        lambda grad, v, g, norms, dim: (torch.empty_like(v), torch.empty_like(g)),
    )

    with torch.random.fork_rng():
        yield

    library._destroy()
