"""Where fairseq2 0.8 has no public way in: the private names that this package relies on, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fairseq2.metrics.recorders import MetricRecorder
from fairseq2.runtime.dependency import DependencyContainer, DependencyProvider
from fairseq2.trainer import Trainer

T = TypeVar("T")


def override_provider(
    container: DependencyContainer,
    kls: type[T],
    provider: DependencyProvider[object],
    *,
    singleton: bool = False,
) -> None:
    """Register a provider in place of the host's.

    A recipe is asked for its registrations after the host has made its own, and the host refuses a second one.

    :param container: The host's container, before its first use.
    :param kls: The type to provide.
    :param provider: Creates an object that serves as one.
    :param singleton: Whether it is created once.
    """
    del container._registrations[(kls, None)]

    container._keys[kls].remove(None)

    container.register(kls, provider, singleton=singleton)


def wrap_metric_recorder(
    trainer: Trainer, wrap: Callable[[MetricRecorder, int], MetricRecorder]
) -> None:
    """Have a trainer record its own metrics through another recorder, if it is told a number of updates.

    :param trainer: The host's trainer, before it runs.
    :param wrap: Takes the recorder and the number of updates; returns the other recorder, which closes the first.
    """
    if trainer._max_num_steps is not None:
        trainer._metric_recorder = wrap(trainer._metric_recorder, trainer._max_num_steps)
