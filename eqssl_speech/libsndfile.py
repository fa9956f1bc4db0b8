"""The one place that makes libsndfile findable, which the host's native half cannot be imported without.

The ``soundfile`` wheel carries a libsndfile with the same soname as a system's. Once it is loaded into the process,
the dynamic linker satisfies the host's need with it, and no system package has to be installed.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path


def ensure_libsndfile() -> None:
    """Load the libsndfile of the ``soundfile`` wheel if the system has none.

    Does nothing on a system that has one, and stays silent where neither is found: the host then raises its own
    error, and :func:`describe_libsndfile` says what to do.
    """
    if _load(_system_name()) is not None:
        return

    for file in _find_in_wheel():
        if _load(str(file)) is not None:
            return


def describe_libsndfile() -> str:
    """Say in one sentence which libsndfile this process uses.

    :returns: Its version and file, or what to do if there is none.
    """
    library = _load(_system_name())
    if library is None:
        # An operating system that does not match a loaded library by its soname.
        library = next((lib for lib in map(_load, map(str, _find_in_wheel())) if lib), None)

    if library is None:
        return (
            "libsndfile is neither on the system nor in a `soundfile` wheel; "
            "run `pip install --force-reinstall soundfile`, or install your system's libsndfile."
        )

    file = _find_loaded_file()
    origin = "from an unknown file" if file is None else f"from {file}"
    if file is not None and "_soundfile_data" in file.parts:
        origin += " (the `soundfile` wheel's, as the system has none)"

    return f"{_read_version(library)}, {origin}."


def _system_name() -> str:
    return "libsndfile.1.dylib" if sys.platform == "darwin" else "libsndfile.so.1"


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


def _find_in_wheel() -> list[Path]:
    # `find_spec` of a top-level package locates it without importing anything.
    spec = find_spec("_soundfile_data")
    if spec is None or not spec.submodule_search_locations:
        return []

    suffix = ".dylib" if sys.platform == "darwin" else ".so"

    return [
        file
        for location in spec.submodule_search_locations
        for file in sorted(Path(location).glob(f"libsndfile*{suffix}"))
    ]


def _read_version(library: ctypes.CDLL) -> str:
    function = library.sf_version_string
    function.argtypes = []
    function.restype = ctypes.c_char_p

    version = function()

    return version.decode("ascii", "replace") if version else "libsndfile of unknown version"


def _find_loaded_file() -> Path | None:
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None

    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and Path(fields[5]).name.startswith("libsndfile"):
            return Path(fields[5])

    return None
