"""Evaluation of a recogniser on a corpus: references, hypotheses, and error rates with their intervals."""

from __future__ import annotations
