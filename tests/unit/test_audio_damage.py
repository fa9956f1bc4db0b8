"""Headers that promise what no recording is, samples that no recording has, and files that vanish meanwhile."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_files import FMT, FORMATS, MakeSpeech, WriteAudio, assert_refused, part, whole
from fuzzed_headers import mend_checksums
from torchaudio.functional import resample

from eqssl_speech.data import audio
from eqssl_speech.data.audio import AudioError, AudioFormat, check_header, probe_audio, read_audio
from eqssl_speech.data.truncation import is_truncated

LENIENT = AudioFormat(resample=True, downmix=True)


def promise(file: Path, num_samples: int) -> None:
    """Write a length into the header of a FLAC file, 36 bits of it."""
    content = bytearray(file.read_bytes())
    rest = int.from_bytes(content[18:26], "big") >> 36
    content[18:26] = (rest << 36 | num_samples).to_bytes(8, "big")
    file.write_bytes(content)


@pytest.mark.parametrize("num_samples", [1 << 27, 1 << 31, (1 << 36) - 1])
def test_promise_of_more_than_a_file_can_hold_is_refused_before_memory_is_taken(
    tmp_path: Path, num_samples: int, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.flac"
    write_audio(file, make_speech(20, 0.5))
    promise(file, num_samples)

    assert_refused(file, whole(num_samples), "unreadable", f"promises {num_samples} samples")
    with pytest.raises(AudioError, match="promises"):
        probe_audio(file)


def test_memory_is_taken_as_samples_come_and_not_as_they_are_promised(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    file = tmp_path / "a.flac"
    write_audio(file, make_speech(20, 0.5))
    promise(file, 1 << 24)

    sizes = []
    read = soundfile.SoundFile.read

    def spy(self: soundfile.SoundFile, frames: int = -1, *args: object, **kwargs: object) -> object:
        sizes.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    monkeypatch.setattr(audio, "_BLOCK_SIZE", 1000)

    assert_refused_by_reading(file, 1 << 24, "is cut off")
    assert max(sizes) == 1000
    # Once to read it and once to tell why it cannot be read, and not once for each 1,000 that were promised.
    assert len(sizes) < 2 * 8000 / 1000 + 4


def assert_refused_by_reading(file: Path, num_samples: int, fault: str) -> None:
    with pytest.raises(AudioError, match=fault):
        read_audio(file, whole(num_samples), FMT)


@pytest.mark.parametrize("suffix", [s for s in FORMATS if s != "mp3"])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_blocks_are_joined_without_a_seam(
    tmp_path: Path,
    suffix: str,
    num_channels: int,
    make_speech: MakeSpeech,
    write_audio: WriteAudio,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / f"a.{suffix}"
    length = write_audio(file, make_speech(21, 1.0), num_channels=num_channels)
    expected = read_audio(file, whole(length), LENIENT)

    monkeypatch.setattr(audio, "_BLOCK_SIZE", 3000)

    np.testing.assert_array_equal(read_audio(file, whole(length), LENIENT), expected)
    np.testing.assert_array_equal(
        read_audio(file, part(777, 9000), LENIENT, start=100), expected[877:9777]
    )


@pytest.mark.parametrize("coding", ["VORBIS", "OPUS"])
def test_every_place_in_an_ogg_file_is_found(
    tmp_path: Path, coding: str, make_speech: MakeSpeech
) -> None:
    file = tmp_path / "a.ogg"
    soundfile.write(file, make_speech(25, 6.0), 16000, format="OGG", subtype=coding)
    length = probe_audio(file).num_samples
    expected = read_audio(file, whole(length), FMT)

    for start in [1, 100, 877, *range(1000, length - 500, 1931), length - 500]:
        samples = read_audio(file, whole(length), FMT, start=start, num_samples=500)

        # Opus decodes a little before a place, to which it comes in another state.
        atol = 0 if coding == "VORBIS" else 1e-2
        np.testing.assert_allclose(samples, expected[start : start + 500], rtol=0, atol=atol)


@pytest.mark.parametrize("sample_rate", [1, 999, 15999, 16001, 22254, 1_000_001, (1 << 31) - 1])
def test_rate_that_cannot_be_resampled_in_little_memory_is_refused(
    tmp_path: Path, sample_rate: int, make_speech: MakeSpeech
) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, make_speech(22, 1.0), sample_rate, subtype="PCM_16")

    for call in (check_header, lambda *args: read_audio(*args[:3])):
        with pytest.raises(AudioError, match=f"has {sample_rate} Hz, from which") as info:
            call(file, whole(16000), LENIENT, 1)
        assert info.value.reason == "unreadable"

    # As it is, it can be had at its own rate.
    assert len(read_audio(file, whole(16000), AudioFormat(sample_rate=sample_rate))) == 16000


@pytest.mark.parametrize(
    "sample_rate", [6000, 8000, 11025, 12000, 18900, 22050, 24000, 32000, 37800, 44100, 96000, 384000]
)  # fmt: skip
def test_rates_of_recordings_can_be_resampled(
    tmp_path: Path, sample_rate: int, make_speech: MakeSpeech
) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, make_speech(22, 0.5), sample_rate, subtype="FLOAT")

    samples = read_audio(file, whole(8000), LENIENT)

    stored = soundfile.read(file, dtype="float32")[0]
    expected = resample(torch.from_numpy(stored), sample_rate, 16000).numpy()
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-6)


def test_float_beyond_all_scales_is_damage_and_one_on_that_of_integers_is_not(
    tmp_path: Path, make_speech: MakeSpeech
) -> None:
    file = tmp_path / "a.wav"
    samples = make_speech(23, 1.0)

    soundfile.write(file, samples * 32768, 16000, subtype="FLOAT")
    assert np.abs(read_audio(file, whole(16000), FMT)).max() > 1000

    # Finite, but its square is not, with which a batch is normalised.
    samples[5000] = -1e30
    soundfile.write(file, samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a sample as large as 1e\+30; it is damaged") as info:
        read_audio(file, whole(16000), FMT)
    assert info.value.reason == "unreadable"


def test_channels_whose_sum_overflows_are_named_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, np.full((16000, 2), 3e38, np.float32), 16000, subtype="FLOAT")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match="infinite or not a number"):
            read_audio(file, whole(16000), LENIENT)


_READ_PARTS = """
import sys
from pathlib import Path
from eqssl_speech.data.audio import AudioError, AudioFormat, ManifestEntry, probe_audio, read_audio

for file in sorted(Path(sys.argv[1]).iterdir()):
    print(file.name, end=" ", flush=True)
    try:
        entry = ManifestEntry(file.name, probe_audio(file).num_samples)
        read_audio(file, entry, AudioFormat(), start=12345, num_samples=100)
        print("read")
    except AudioError as ex:
        print(ex.reason)
"""


def test_vorbis_whose_codebooks_are_damaged_is_refused_where_libsndfile_would_crash(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    good = tmp_path / "good.ogg"
    write_audio(good, make_speech(24, 2.0))
    content = good.read_bytes()
    folder = tmp_path / "damaged"
    folder.mkdir()

    # A bit of the codebooks in each file. It is a fault of few of them that libvorbis finds only after the header.
    start = content.find(b"\x05vorbis") + 8
    for nr in range(100):
        damaged = bytearray(content)
        damaged[start + 10 * nr] ^= 1 << nr % 8
        (folder / f"{nr:03}.ogg").write_bytes(mend_checksums(bytes(damaged)))

    result = subprocess.run(
        [sys.executable, "-c", _READ_PARTS, folder], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout[-100:] + result.stderr
    outcomes = [line.split(" ", 1)[1] for line in result.stdout.splitlines()]
    assert len(outcomes) == 100
    assert {"read", "unreadable"} <= set(outcomes)


@pytest.mark.parametrize(
    ("error", "reason", "fault"),
    [
        (PermissionError(13, "Permission denied"), "unreadable", "cannot be read .Permission"),
        (FileNotFoundError(2, "No such file"), "missing", "does not exist"),
        (OSError(5, "Input/output error"), "unreadable", "cannot be read .Input/output error"),
    ],
)
def test_what_the_system_refuses_after_the_start_is_a_fault_of_the_file(
    tmp_path: Path, error: OSError, reason: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF")

    def fail(path: Path) -> bool:
        raise error

    monkeypatch.setattr(audio, "is_truncated", fail)

    assert_refused(file, whole(16000), reason, fault)


@pytest.mark.parametrize(("num_chunks", "expected"), [(4000, True), (100_000, False)])
def test_chunks_without_end_are_not_followed_for_ever(
    tmp_path: Path, num_chunks: int, expected: bool
) -> None:
    data = b"data" + struct.pack("<I", 100) + bytes(50)
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(8 * num_chunks) + data)

    assert is_truncated(file) is expected
