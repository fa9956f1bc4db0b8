"""Acoustic features and their k-means clusters, which masked prediction (HuBERT) is taught with.

What is made by `eqssl labels` is read by :class:`~eqssl_speech.labels.store.LabelStore`.
"""

from __future__ import annotations

from eqssl_speech.labels.store import LabelStore

__all__ = ["LabelStore"]
