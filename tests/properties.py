"""How properties are tested: the same examples on every run, so that a failure in CI is one at home."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from eqssl_speech.error import InputError

REPRODUCIBLE = settings(derandomize=True, database=None, deadline=None, max_examples=100)
"""The settings of every property."""

ANY_TEXT = st.text(max_size=20)
"""Text of all characters, those included that UTF-8 cannot hold."""

ODD_TOKENS = [
    "\t",
    "\n",
    "\r",
    "\r\n",
    " ",
    ":",
    "-",
    "+",
    "0",
    "1",
    "160",
    "1.5",
    "1_0",
    "٣",
    "\0",
    "\x1b[31m",
]
ODD_TOKENS += [
    "\ufeff",
    "\u2028",
    "\x85",
    ".",
    "..",
    "/",
    "é",
    "9" * 19,
    "9" * 5000,
    "x" * 300,
    "~",
    "*",
]
"""What manifests and lists of sources are made of, and what does not belong there."""


def assert_names(error: pytest.ExceptionInfo[InputError] | InputError, place: Path | str) -> None:
    """Assert that an error is one line of printable text of bounded length that begins with a place."""
    message = str(error if isinstance(error, InputError) else error.value)

    assert message.startswith(f"{place}: "), message
    assert message.isprintable(), repr(message)
    assert len(message) < len(str(place)) + 1200, len(message)
