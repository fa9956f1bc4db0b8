"""Has the host's export to Hugging Face transformers (`regime.export_hugging_face`) done by `eqssl export`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import BinaryIO, Final, TextIO, final

from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.utils.process import ProcessRunner, StandardProcessRunner
from typing_extensions import override

from eqssl_speech.host import override_provider

_HOST_PROGRAM: Final = "fairseq2.models.utils.hg_export"


def publish_by_export(container: DependencyContainer) -> None:
    """Have checkpoints exported by `eqssl export`.

    It writes what the host's program leaves out, the preprocessor and the tokenizer, and compares the result with the
    model. The host would also start its program without the environment, in which libraries may not be found.

    :param container: The host's container.
    """
    override_provider(container, ProcessRunner, lambda _: ExportRunner(StandardProcessRunner()))


@final
class ExportRunner(ProcessRunner):
    """Runs programs, and `eqssl export` instead of the host's program for it."""

    def __init__(self, runner: ProcessRunner) -> None:
        """:param runner: Runs them."""
        self._runner = runner

    @override
    def run(
        self,
        args: Sequence[str],
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
        capture_output: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CompletedProcess[bytes]:
        return self._runner.run(args, stdout, stderr, capture_output, cwd, env)

    @override
    def run_text(
        self,
        args: Sequence[str],
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        capture_output: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CompletedProcess[str]:
        if _HOST_PROGRAM in args:
            # The last argument is where to, which is within the directory of the step.
            out = Path(args[-1])

            args = [sys.executable, "-m", "eqssl_speech", "export", str(out.parent)]
            # It lies in RUN/checkpoints/step_N/hg.
            name = f"{out.absolute().parents[2].name}-{out.parent.name}"

            args += ["--to", "hf", "--out", str(out), "--name", name]
            env = None

        return self._runner.run_text(args, stdout, stderr, capture_output, cwd, env)
