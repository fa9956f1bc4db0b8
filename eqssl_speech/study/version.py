"""Which version of the code a study is run with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from eqssl_speech import __version__


def find_version() -> str:
    """Return the commit of the checkout that this code is in, with `+` if files differ from it, or the version of the
    package where there is no checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not (root / ".git").exists():
            return __version__

        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return __version__
