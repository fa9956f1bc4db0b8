"""libsndfile is found in the wheel where the system has none; each case in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from eqssl_speech import libsndfile


def run(program: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr

    return result.stdout.strip()


def test_wheel_holds_a_libsndfile_that_is_found_without_importing_it() -> None:
    if find_spec("_soundfile_data") is None:
        # The wheel without a library, which needs the one of the system.
        assert libsndfile._find_in_wheel() == []
        return

    (file,) = libsndfile._find_in_wheel()

    assert file.is_file()


def test_host_is_imported_after_this_package_whatever_the_system_has() -> None:
    program = "import sys, eqssl_speech; assert 'fairseq2' not in sys.modules; import fairseq2"

    run(f"{program}; print(fairseq2.__version__)")


def test_package_is_imported_without_the_host_and_without_torch() -> None:
    names = run("import sys, eqssl_speech; print(*sys.modules)").split()

    assert {"fairseq2", "fairseq2n", "torch", "soundfile"}.isdisjoint(names)


def test_description_names_version_and_file() -> None:
    sentence = run(
        "import eqssl_speech; from eqssl_speech.libsndfile import describe_libsndfile as d; print(d())"
    )

    assert sentence.startswith("libsndfile-1.")
    assert sentence.endswith(".")
    if sys.platform == "linux":
        assert ", from /" in sentence


def test_system_that_has_one_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(name: str, mode: int) -> object:
        assert mode == ctypes.RTLD_GLOBAL
        loaded.append(name)
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)

    libsndfile.ensure_libsndfile()

    assert loaded == [libsndfile._system_name()]


def test_wheel_is_used_where_the_system_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str, mode: int) -> object:
        loaded.append(name)
        if name == libsndfile._system_name():
            raise OSError("cannot open shared object file")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(
        libsndfile, "_find_in_wheel", lambda: [tmp_path / "a.so", tmp_path / "b.so"]
    )

    libsndfile.ensure_libsndfile()

    assert loaded == [libsndfile._system_name(), str(tmp_path / "a.so")]


def test_nothing_is_raised_and_the_remedy_is_told_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, mode: int) -> object:
        raise OSError("cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(libsndfile, "_find_in_wheel", lambda: [tmp_path / "a.so"])

    libsndfile.ensure_libsndfile()

    assert "pip install --force-reinstall soundfile" in libsndfile.describe_libsndfile()
