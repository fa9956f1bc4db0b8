"""Audio files that were cut off or damaged are told from those that are whole, whatever holds them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import FMT, FORMATS, MakeSpeech, WriteAudio, assert_refused, part, whole
from numpy.typing import NDArray

from eqssl_speech.data.audio import (
    AudioError,
    AudioFormat,
    AudioInfo,
    check_header,
    is_truncated,
    probe_audio,
    read_audio,
)
from eqssl_speech.data.manifest import ManifestEntry


def patch_data_size(file: Path, size: int) -> None:
    content = bytearray(file.read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    file.write_bytes(content)


def cut(file: Path, share: float) -> Path:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])

    return file


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("entry", [whole(48000), part(40000, 8000)])
def test_file_that_was_cut_off_is_found_by_its_container(
    tmp_path: Path,
    suffix: str,
    share: float,
    entry: ManifestEntry,
    make_speech: MakeSpeech,
    write_audio: WriteAudio,
) -> None:
    file = tmp_path / f"a.{suffix}"
    write_audio(file, make_speech(13, 3.0))
    cut(file, share)

    assert is_truncated(file)
    assert_refused(file, entry, "truncated", "cut off")


@pytest.mark.parametrize(
    ("suffix", "num_bytes", "fault"),
    [
        ("wav", 44, "before its first sample"),
        ("ogg", 5000, "first sample"),
        ("ogg", 100, "cut off"),
    ],
)
def test_file_that_was_cut_off_before_its_first_sample_is_not_called_empty(
    tmp_path: Path,
    suffix: str,
    num_bytes: int,
    fault: str,
    make_speech: MakeSpeech,
    write_audio: WriteAudio,
) -> None:
    file = tmp_path / f"a.{suffix}"
    write_audio(file, make_speech(13, 3.0))
    file.write_bytes(file.read_bytes()[:num_bytes])

    assert_refused(file, whole(48000), "truncated", fault)


def test_manifest_made_after_the_cut_does_not_hide_it(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.wav"
    write_audio(file, make_speech(13, 1.0))
    cut(file, 0.5)

    with pytest.raises(AudioError, match="cut off"):
        check_header(file, whole(probe_audio(file).num_samples), FMT, 400)


@pytest.mark.parametrize("suffix", [s for s in FORMATS if s in ("flac", "mp3")])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_file_that_was_cut_off_is_found_by_decoding(
    tmp_path: Path, suffix: str, share: float, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / f"a.{suffix}"
    length = write_audio(file, make_speech(14, 3.0))
    cut(file, share)

    check_header(file, whole(length), FMT, 400)

    with pytest.raises(AudioError, match="cut off") as info:
        read_audio(file, whole(length), FMT)

    assert info.value.reason == "truncated"


@pytest.mark.parametrize("suffix", ["flac", "ogg"])
def test_file_with_damage_in_the_middle_is_unreadable(
    tmp_path: Path, suffix: str, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / f"a.{suffix}"
    length = write_audio(file, make_speech(15, 12.0))

    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    noise = np.random.default_rng(0).integers(0, 256, len(content) // 10, dtype=np.uint8)
    content[middle : middle + len(noise)] = noise.tobytes()
    file.write_bytes(content)

    with pytest.raises(AudioError, match="damaged") as info:
        read_audio(file, whole(length), FMT)

    assert info.value.reason == "unreadable"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_file_from_a_pipe_whose_size_nobody_knew_is_whole(
    tmp_path: Path, size: int, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.wav"
    write_audio(file, make_speech(16, 1.0))
    patch_data_size(file, size)

    assert not is_truncated(file)
    assert len(read_audio(file, whole(16000), FMT)) == 16000


def test_one_byte_too_many_in_the_header_is_a_cut(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.wav"
    write_audio(file, make_speech(16, 1.0))

    patch_data_size(file, 32000)
    assert not is_truncated(file)

    patch_data_size(file, 32001)
    assert is_truncated(file)


def test_chunks_of_odd_size_before_the_samples_are_stepped_over(tmp_path: Path) -> None:
    header = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    note = b"note" + struct.pack("<I", 3) + b"abc\x00"
    data = b"data" + struct.pack("<I", 2000) + bytes(2000)
    body = b"WAVE" + header + note + data
    file = tmp_path / "a.wav"

    file.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert not is_truncated(file)
    assert probe_audio(file).num_samples == 1000

    file.write_bytes(file.read_bytes()[:-1])
    assert is_truncated(file)


@pytest.mark.parametrize("container", ["RF64", "WAVEX"])
def test_wav_of_another_kind_is_whole_until_it_is_cut(
    tmp_path: Path, container: str, make_speech: MakeSpeech
) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, make_speech(17, 1.0), 16000, format=container, subtype="PCM_16")
    assert not is_truncated(file)

    cut(file, 0.8)
    assert is_truncated(file)


def test_big_endian_wav_is_whole_until_it_is_cut(tmp_path: Path, make_speech: MakeSpeech) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, make_speech(17, 1.0), 16000, subtype="PCM_16", endian="BIG")
    assert file.read_bytes().startswith(b"RIFX")
    assert not is_truncated(file)

    cut(file, 0.8)
    assert is_truncated(file)


def test_opus_is_whole_until_it_is_cut(tmp_path: Path, make_speech: MakeSpeech) -> None:
    file = tmp_path / "a.ogg"
    soundfile.write(file, make_speech(18, 2.0), 16000, format="OGG", subtype="OPUS")
    assert not is_truncated(file)
    assert probe_audio(file) == AudioInfo(16000, 1, 32000)

    cut(file, 0.7)
    assert is_truncated(file)


def test_ogg_that_was_cut_off_between_two_pages_is_found(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.ogg"
    write_audio(file, make_speech(19, 3.0))
    content = file.read_bytes()

    file.write_bytes(content[: content.rfind(b"OggS")])

    assert is_truncated(file)
    assert 0 < probe_audio(file).num_samples < 48000


def test_name_that_is_not_utf8_is_read(
    make_speech: Callable[..., NDArray[np.float32]], write_audio: Callable[..., int], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.wav"
    num_samples = write_audio(plain, make_speech(1, 0.2))

    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    plain.rename(odd)

    samples = read_audio(odd, ManifestEntry(odd.name, num_samples), AudioFormat())

    assert len(samples) == num_samples
