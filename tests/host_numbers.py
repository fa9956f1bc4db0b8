"""How near numbers have to come to the host's."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def assert_close(ours: Tensor, host: Tensor, least_norm: float = 0.0) -> None:
    """Compare by norm, or by the least norm where what is left of a sum of large terms is rounding noise in both."""
    masked = host.isneginf()
    assert torch.equal(ours.isneginf(), masked)

    ours, host = ours[~masked], host[~masked]

    assert (ours - host).norm() <= TOLERANCES[host.dtype] * max(host.norm(), least_norm)
