"""Debian packages without root: ``apt-get download`` and ``dpkg-deb -x`` into a cache; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from eqssl_speech.error import InputError


def require_debian_tools() -> None:
    """Check that the machine has Debian's package tools.

    :raises InputError: where it has not.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise InputError(
                f"`{program}` is not on the search path, and debian-speech is made from Debian's packages: "
                "run this on a Debian or Ubuntu machine, or in a container of one."
            )


def fetch_package(name: str, cache: Path) -> Path:
    """Download and unpack a package, unless the cache has it.

    :param name: name of a binary package.
    :param cache: directory for the archives and the unpacked trees; may be shared and is safe to interrupt.
    :returns: the directory that the package is unpacked in.
    :raises InputError: where the archive does not have the package or it cannot be unpacked.
    """
    tree = cache / "trees" / name
    if tree.is_dir():
        return tree
    archive = _find_archive(name, cache) or _download(name, cache)
    scratch = _fresh_directory(cache / "trees", name)
    try:
        _run(["dpkg-deb", "-x", str(archive), str(scratch)], f"unpacking `{archive.name}`")
        scratch.rename(tree)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return tree


def package_fields(name: str, cache: Path) -> dict[str, str]:
    """Read what a fetched package says of itself.

    :returns: ``Package``, ``Version`` and ``Source`` (name of the source package).
    """
    archive = _find_archive(name, cache) or _download(name, cache)
    fields = {}
    for field in ("Package", "Version", "Source"):
        fields[field] = _run(["dpkg-deb", "-f", str(archive), field], f"reading `{name}`").strip()
    fields["Source"] = fields["Source"].split(" ")[0] or name
    return fields


def read_notices(name: str, tree: Path) -> list[tuple[str, str]]:
    """Read the copyright file and the readme files of an unpacked package.

    :returns: pairs of file name and text.
    """
    folder = tree / "usr/share/doc" / name
    files = [folder / "copyright", *sorted(folder.glob("readme*.txt"))]
    texts = (
        (f.name, f.read_text(encoding="utf-8", errors="replace")) for f in files if f.is_file()
    )
    return [(file, text.replace("\r\n", "\n")) for file, text in texts]


def _find_archive(name: str, cache: Path) -> Path | None:
    return next(iter(sorted((cache / "archives").glob(f"{name}_*.deb"))), None)


def _download(name: str, cache: Path) -> Path:
    require_debian_tools()
    scratch = _fresh_directory(cache / "archives", name)
    try:
        _run(
            ["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", name],
            f"downloading `{name}` with apt-get (if its lists are old, run `apt-get update` first)",
            cwd=scratch,
        )
        (archive,) = scratch.glob("*.deb")
        target = cache / "archives" / archive.name
        archive.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _fresh_directory(parent: Path, name: str) -> Path:
    for stale in parent.glob(f".{name}.*.tmp"):  # Left by a program that was killed.
        shutil.rmtree(stale, ignore_errors=True)
    directory = parent / f".{name}.{os.getpid()}.tmp"
    directory.mkdir(parents=True)
    return directory


def _run(command: Sequence[str], what: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise InputError(f"{what} failed: {lines[-1].strip()}")
    return done.stdout
