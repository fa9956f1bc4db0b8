"""``eqssl doctor``: say what this machine has and lacks."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from eqssl_speech.cli.common import add_command

_DOCTOR: Final = """\
Print the versions found and wanted, the devices, and each problem with its remedy in one sentence. The exit
status is 1 if there is a problem.

examples:
  eqssl doctor
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "doctor", _DOCTOR, "say what this machine has and lacks")
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.doctor import examine, render

    findings = examine()

    print(render(findings))

    return 1 if any(finding.problem for finding in findings) else 0
