"""Corpora: manifests, sources, audio files and the batches made of them."""

from __future__ import annotations
