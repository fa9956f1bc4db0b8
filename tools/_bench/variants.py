"""The ways of doing the job: plainly, and with EquilibriumOptimizer. Other libraries are in peers.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Final, Literal

from eqssl_speech.equilibrium import EquilibriumOptimizer

from .job import Job

PLAIN: Final = "plain"
OURS: Final = "equilibrium"
OURS_UNIFORM: Final = "equilibrium, uniform"


class Variant(ABC):
    """One way of doing an outer step."""

    def __init__(self, job: Job) -> None:
        """:param job: Model, optimizer and batches, which all variants share."""
        self.job = job

    @abstractmethod
    def accumulate(self) -> None:
        """Leave the gradient of the step in ``.grad``."""

    def apply(self) -> None:
        """Let AdamW take its step and clear the gradients."""
        self.job.optimizer.step()
        self.job.optimizer.zero_grad()

    def discard(self) -> None:
        """Clear the gradients without a step."""
        self.job.optimizer.zero_grad()


class Plain(Variant):
    """K+1 gradients at theta, accumulated as in any training loop."""

    def accumulate(self) -> None:
        """Run forward and backward K+1 times."""
        for k in range(self.job.num_inner_steps + 1):
            self.job.loss(k).backward()


class PlainPerBatch(Plain):
    """A step of AdamW per batch: the least memory that training on these batches can do with."""

    def accumulate(self) -> None:
        """Take a step on each batch but the last, whose gradient is left."""
        num_batches = self.job.num_inner_steps + 1

        for k in range(num_batches):
            self.job.loss(k).backward()

            if k < num_batches - 1:
                self.apply()


class Equilibrium(Variant):
    """The paper's method: the last of the K+1 gradients, after K inner steps."""

    OUTER_WEIGHTS: Literal["last", "uniform"] = "last"

    def __init__(self, job: Job) -> None:
        """:param job: Model, optimizer and batches."""
        super().__init__(job)

        self._optimizer = EquilibriumOptimizer(
            job.optimizer,
            num_inner_steps=job.num_inner_steps,
            inner_lr=job.spec.inner_lr,
            outer_weights=self.OUTER_WEIGHTS,
            buffers=job.model.buffers(),
        )

    def accumulate(self) -> None:
        """Adapt, then run forward and backward at phi^K."""
        job = self.job

        self._optimizer.adapt([partial(job.loss, k) for k in range(job.num_inner_steps)])
        self._optimizer.outer_loss(job.loss(job.num_inner_steps)).backward()

    def apply(self) -> None:
        """Put theta back, let AdamW take its step, clear the gradients."""
        self._optimizer.step()
        self._optimizer.zero_grad()

    def discard(self) -> None:
        """Put theta back and clear the gradients."""
        self._optimizer.zero_grad()


class EquilibriumUniform(Equilibrium):
    """Reptile's direction: the mean of the K+1 gradients."""

    OUTER_WEIGHTS = "uniform"
