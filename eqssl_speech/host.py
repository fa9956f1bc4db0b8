"""Where fairseq2 0.8 has no public way in: the private names that this package relies on, in one place."""

from __future__ import annotations

from typing import TypeVar

from fairseq2.runtime.dependency import DependencyContainer, DependencyProvider

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
