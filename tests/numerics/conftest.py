"""Quadratic data sources whose outer gradient is known in closed form (DESIGN.md section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from host_numbers import TOLERANCES
from torch import Tensor

import eqssl_speech  # noqa: F401  Lets fairseq2 find libsndfile, before any test imports it.

# Several tensors of different ranks, a scalar among them, so that nothing can rely on one flat vector.
SHAPES: dict[str, tuple[int, ...]] = {"weight": (3, 2), "bias": (4,), "scale": ()}


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """Concatenate the tensors of ``params``, in the order of ``SHAPES``, to one vector *(P)*."""
    return torch.cat([params[name].reshape(-1) for name in SHAPES])


def unflatten(vector: Tensor) -> dict[str, Tensor]:
    """Cut a vector *(P)* into fresh tensors of the shapes of ``SHAPES``."""
    params, start = {}, 0

    for name, shape in SHAPES.items():
        num_elements = torch.Size(shape).numel()
        params[name] = vector[start : start + num_elements].reshape(shape).clone()
        start += num_elements

    return params


@dataclass(frozen=True)
class Quadratic:
    """The loss ``1/2 (theta - c)^T A (theta - c)`` of one data source."""

    matrix: Tensor
    """A, symmetric positive definite. *Shape:* *(P, P)*"""

    optimum: Tensor
    """c. *Shape:* *(P)*"""

    def __call__(self, params: Mapping[str, Tensor]) -> Tensor:
        offset = flatten(params) - self.optimum

        return 0.5 * (offset @ (self.matrix @ offset))

    def contraction(self, inner_lr: float, num_steps: int) -> Tensor:
        """``(I - inner_lr A)^num_steps``, which is d phi^k / d theta. *Shape:* *(P, P)*"""
        identity = torch.eye(len(self.optimum), dtype=self.matrix.dtype)

        return torch.linalg.matrix_power(identity - inner_lr * self.matrix, num_steps)

    def outer_matrix(self, inner_lr: float, weights: Sequence[float], order: str) -> Tensor:
        """The matrix that takes ``theta - c`` to the outer gradient. *Shape:* *(P, P)*"""
        total = torch.zeros_like(self.matrix)

        for num_steps, weight in enumerate(weights):
            contraction = self.contraction(inner_lr, num_steps)
            term = self.matrix @ contraction
            total += weight * (contraction @ term if order == "exact" else term)

        return total


QuadraticFactory = Callable[..., list[Quadratic]]


@pytest.fixture
def make_quadratics() -> QuadraticFactory:
    """Return a function that draws data sources with the eigenvalues of A in a given range."""

    def make(
        num_sources: int, seed: int, *, low: float, high: float, dtype: torch.dtype = torch.float64
    ) -> list[Quadratic]:
        generator = torch.Generator().manual_seed(seed)
        num_params = sum(torch.Size(shape).numel() for shape in SHAPES.values())
        sources = []

        for _ in range(num_sources):
            square = torch.randn(num_params, num_params, generator=generator, dtype=dtype)
            basis, _ = torch.linalg.qr(square)
            spread = torch.rand(num_params, generator=generator, dtype=dtype)
            matrix = basis @ torch.diag(low + (high - low) * spread) @ basis.T
            optimum = torch.randn(num_params, generator=generator, dtype=dtype)
            sources.append(Quadratic((matrix + matrix.T) / 2, optimum))

        return sources

    return make


@pytest.fixture
def make_theta() -> Callable[[int], dict[str, Tensor]]:
    """Return a function that draws theta, in float64, as a dict of tensors."""

    def make(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1000 + seed)
        num_params = sum(torch.Size(shape).numel() for shape in SHAPES.values())

        return unflatten(2.0 * torch.randn(num_params, generator=generator, dtype=torch.float64))

    return make


@pytest.fixture
def flat() -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return :func:`flatten`."""
    return flatten


@pytest.fixture
def unflat() -> Callable[[Tensor], dict[str, Tensor]]:
    """Return :func:`unflatten`."""
    return unflatten


@pytest.fixture
def assert_exact() -> Callable[[Tensor, Tensor], None]:
    """Return an assertion of equality to 1e-10, absolute per element and relative in norm.

    The values are of the order 1 to 10 and some 1e3 additions are made of them, so float64 rounding stays below
    1e-13, while a wrong sign, power, weight or transpose is off by more than 1e-3: 1e-10 is far from both.
    """

    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.dtype == expected.dtype == torch.float64
        assert actual.shape == expected.shape
        error = actual.detach() - expected

        assert error.abs().max() <= 1e-10
        assert error.norm() <= 1e-10 * expected.norm()

    return check


@pytest.fixture(params=list(TOLERANCES), ids=str)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Let the host, which computes parts in float32 whatever the model is in, keep to float64 there."""
    if request.param == torch.float64:
        monkeypatch.setattr(Tensor, "float", Tensor.double)

    return request.param
