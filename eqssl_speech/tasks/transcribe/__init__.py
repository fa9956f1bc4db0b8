"""Recognition of recordings: which ones, their emissions, their words, and the files that these become."""

from __future__ import annotations
