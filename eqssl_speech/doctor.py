"""What this machine has, what the package needs, and what is wrong, in one sentence each.

Nothing here may fail where a package is missing or broken: that is what it is asked to find out.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Final, final

from eqssl_speech.cores import num_cores
from eqssl_speech.libsndfile import describe_libsndfile

_PYTHON: Final = ((3, 10), (3, 12))

_PACKAGES: Final = (
    "fairseq2",
    "torch",
    "torchaudio",
    "soundfile",
    "numpy",
    "sentencepiece",
    "rich",
    "matplotlib",
)

_IMPORTED: Final = ("torch", "torchaudio", "soundfile", "fairseq2")

_REINSTALL: Final = "run `tools/setup.sh`, or `pip install -e .` in the repository"

_ENTRY_POINTS: Final = "fairseq2.extension"


@final
@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What it is."""

    found: str
    """What there is."""

    wanted: str = ""
    """What is needed; empty if anything will do."""

    problem: str | None = None
    """What is wrong and the remedy in one sentence; ``None`` if nothing is."""


def examine() -> list[Finding]:
    """Look at everything that a run needs.

    :returns: The findings, in the order in which they are worth reading.
    """
    findings = [check_python(sys.version_info[:3])]

    findings.extend(check_package(name, _read_requirement(name)) for name in _PACKAGES)

    findings.append(_check_libsndfile())

    # Imported only now: a package that is absent or of the wrong version has been named above.
    installed = [name for name in _IMPORTED if _read_version(name) is not None]

    findings.extend(check_import(name) for name in installed)

    findings.extend((_check_extension(), _describe_cpu(), _describe_cuda()))

    findings.append(_describe_tool("ffmpeg", "decodes the telephone formats of debian-speech"))
    findings.append(_describe_tool("apt-get", "downloads the packages of debian-speech"))

    return findings


def check_python(version: tuple[int, ...]) -> Finding:
    """Compare a version of Python with the supported ones.

    :param version: Major, minor and micro version.
    """
    low, high = (".".join(map(str, bound)) for bound in _PYTHON)

    found = ".".join(map(str, version))

    problem = None
    if not _PYTHON[0] <= version[:2] <= _PYTHON[1]:
        problem = (
            f"Python is {found}, but fairseq2 0.8 exists for {low} to {high} only; "
            "set up again with `PYTHON=/path/to/python3.12 tools/setup.sh`."
        )

    return Finding("python", found, f"{low} - {high}", problem)


def check_package(name: str, wanted: str) -> Finding:
    """Compare the installed version of a package with the wanted one.

    :param name: The name of the distribution.
    :param wanted: A version specifier such as ``~=0.8.1``, or empty for any version.
    """
    found = _read_version(name)
    if found is None:
        return Finding(name, "missing", wanted, f"`{name}` is not installed; {_REINSTALL}.")

    problem = None
    if not _satisfies(found, wanted):
        problem = f"`{name}` is {found}, but {wanted} is needed; {_REINSTALL}."

    return Finding(name, found, wanted, problem)


def check_import(name: str) -> Finding:
    """Import a module and say what happened.

    :param name: The name of the module.
    """
    try:
        import_module(name)
    except Exception as ex:  # Native libraries raise what they like.
        reason = _summarize(ex)

        return Finding(
            f"import {name}",
            "fails",
            problem=f"`import {name}` fails with {reason}; mend that, or remove .venv and {_REINSTALL}.",
        )

    return Finding(f"import {name}", "works")


def render(findings: list[Finding]) -> str:
    """Lay findings out as text: one line each, then the problems.

    :param findings: What :func:`examine` returned.
    """
    width = max(len(finding.name) for finding in findings)

    lines = []

    for finding in findings:
        mark = "ok" if finding.problem is None else "!!"
        wanted = f"  (wanted: {finding.wanted})" if finding.wanted else ""

        lines.append(f"{mark} {finding.name:<{width}}  {finding.found}{wanted}")

    problems = [finding.problem for finding in findings if finding.problem is not None]

    lines.append("")
    lines.extend(problems or ["Nothing is wrong."])

    return "\n".join(lines)


def _read_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _read_requirement(name: str) -> str:
    # setup.py is the one place that holds the pins; torch's is in fairseq2's native half.
    for distribution in ("eqssl_speech", "fairseq2n"):
        try:
            lines = metadata.requires(distribution) or []
        except metadata.PackageNotFoundError:
            continue

        with suppress(ImportError):
            from packaging.requirements import Requirement

            for requirement in map(Requirement, lines):
                is_extra = "extra" in str(requirement.marker or "")
                if requirement.name == name and not is_extra:
                    return str(requirement.specifier)

    return ""


def _satisfies(found: str, wanted: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True

    return SpecifierSet(wanted).contains(found, prereleases=True)


def _check_libsndfile() -> Finding:
    description = describe_libsndfile()

    if description.startswith("libsndfile is neither"):
        return Finding("libsndfile", "missing", problem=description)

    return Finding("libsndfile", description.rstrip("."))


def _check_extension() -> Finding:
    name = "extension"

    entry_points = metadata.entry_points(group=_ENTRY_POINTS)

    ours = [point for point in entry_points if point.value.startswith("eqssl_speech:")]
    if not ours:
        problem = (
            f"fairseq2 does not see the extension, as eqssl_speech is not installed; {_REINSTALL}."
        )

        return Finding(name, "not registered", problem=problem)

    try:
        from fairseq2.runtime.dependency import DependencyContainer

        ours[0].load()(DependencyContainer())
    except Exception as ex:
        problem = f"The fairseq2 extension fails with {_summarize(ex)}; {_REINSTALL}."

        return Finding(name, "fails", problem=problem)

    return Finding(name, f"{ours[0].value} registers")


def _describe_cpu() -> Finding:
    # Fewer than the machine's inside a container.
    number = num_cores()

    return Finding("cpu", f"{number} core{'' if number == 1 else 's'}")


def _describe_cuda() -> Finding:
    try:
        import torch

        names = list(_list_cuda_devices(torch.cuda.device_count, torch.cuda.get_device_name))
    except Exception as ex:
        return Finding("cuda", f"unknown ({_summarize(ex)})")

    return Finding("cuda", ", ".join(names) or "no device (runs on the CPU)")


def _list_cuda_devices(count: Callable[[], int], name: Callable[[int], str]) -> Iterator[str]:
    for index in range(count()):
        yield f"{index}: {name(index)}"


def _describe_tool(name: str, use: str) -> Finding:
    return Finding(name, f"{shutil.which(name) or 'none'} (optional: {use})")


def _summarize(ex: BaseException) -> str:
    lines = str(ex).strip().splitlines() or [""]

    return f"{type(ex).__name__}: {lines[0]}".rstrip(": .")
