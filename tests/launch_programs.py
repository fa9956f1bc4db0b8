"""Stand-ins for what ``recipes/launch.sh`` starts: they write down how they were called; srun starts its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# What a call leaves of its environment.
_NAMES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]

_SCRIPT = f"""\
#!{sys.executable} -IS
import json, os, subprocess, sys

name, args = os.path.basename(sys.argv[0]), sys.argv[1:]

env = {{n: os.environ[n] for n in {_NAMES} if n in os.environ}}

with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps({{"program": name, "args": args, "env": env}}) + "\\n")

if args[:2] == ["show", "hostnames"]:
    print("gpu-03\\ngpu-07")
elif name == "srun":
    options = dict(a.split("=", 1) for a in args if a.startswith("--") and "=" in a)
    per_node = int(options["--ntasks-per-node"])
    command = args[args.index("bash") :]
    sys.exit(
        max(
            subprocess.run(
                command, env=os.environ | {{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i % per_node)}}
            ).returncode
            for i in range(int(options["--ntasks"]))
        )
    )
elif name == "python" and os.environ.get("FAILING", "nothing") in args:
    sys.exit(int(os.environ["STATUS"]))
"""


@dataclass(frozen=True)
class Call:
    """A call of one of the programs."""

    program: str
    args: list[str]
    env: dict[str, str]

    @property
    def subcommand(self) -> str | None:
        """That of ``eqssl``, if it is one."""
        if "eqssl_speech" not in self.args:
            return None

        return self.args[self.args.index("eqssl_speech") + 1]


class Programs:
    """``python``, ``srun``, ``sbatch`` and ``scontrol``, first on the path of what :meth:`run` starts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bin = directory / "bin"
        self._bin.mkdir()

        for name in ("python", "srun", "sbatch", "scontrol"):
            file = self._bin / name
            file.write_text(_SCRIPT)
            file.chmod(0o755)

    @property
    def python(self) -> str:
        """The interpreter that the recipes are told to take."""
        return str(self._bin / "python")

    def run(self, *command: object, **env: object) -> subprocess.CompletedProcess[str]:
        """Run a command in the directory, with what is given added to an environment without SLURM."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "NPROC_"))}

        return subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=self._directory,
            env=clean
            | {
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                "PYTHON": self.python,
                "CALLS": str(self._directory / "calls.jsonl"),
            }
            | {key: str(value) for key, value in env.items()},
        )

    def calls(self, program: str | None = None) -> list[Call]:
        """Return what was called, or how often one of the programs was."""
        file = self._directory / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = [Call(**json.loads(line)) for line in lines]

        return [call for call in calls if program in (None, call.program)]
