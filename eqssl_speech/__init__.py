"""Speech self-supervised pre-training under equilibrium constraints, as an extension of fairseq2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eqssl_speech.libsndfile import ensure_libsndfile

if TYPE_CHECKING:
    from fairseq2.runtime.dependency import DependencyContainer

__version__ = "0.1.0"

ensure_libsndfile()  # Before anything imports fairseq2, which fails on a system without libsndfile.


def setup_fairseq2_extension(container: DependencyContainer) -> None:
    """Register everything of this package with the host; the ``fairseq2.extension`` entry point.

    :param container: The host's container of components.
    """
    from eqssl_speech.composition import register_all

    register_all(container)
