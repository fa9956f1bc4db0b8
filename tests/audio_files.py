"""Entries of audio files, and what it takes for one to be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from eqssl_speech.data.audio import (
    AudioError,
    AudioFormat,
    check_header,
    read_audio,
)
from eqssl_speech.data.manifest import ManifestEntry

MakeSpeech = Callable[..., NDArray[np.float32]]
WriteAudio = Callable[..., int]

FMT = AudioFormat()

FORMATS = ["wav", "flac", "ogg"] + (["mp3"] if "MP3" in soundfile.available_formats() else [])


def whole(length: int) -> ManifestEntry:
    return ManifestEntry("unused", length)


def part(offset: int, length: int) -> ManifestEntry:
    return ManifestEntry("unused", length, offset, is_slice=True)


def assert_refused(file: Path, entry: ManifestEntry, reason: str, fault: str) -> None:
    for call in (
        lambda: check_header(file, entry, FMT, 400),
        lambda: read_audio(file, entry, FMT),
    ):
        with pytest.raises(AudioError, match=fault) as info:
            call()

        assert info.value.reason == reason
        assert info.value.path == file
        assert str(info.value).startswith(f"{file}: ")
