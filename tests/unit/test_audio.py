"""Audio files of all formats: parts equal the whole, and every way to be bad has its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_files import FMT, FORMATS, MakeSpeech, WriteAudio, assert_refused, part, whole
from torchaudio.functional import resample

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


@pytest.mark.parametrize("suffix", FORMATS)
def test_header_says_rate_channels_and_length(
    tmp_path: Path, suffix: str, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    length = write_audio(tmp_path / f"a.{suffix}", make_speech(1, 1.3, 8000), 8000, 2)

    assert length == 10400
    assert probe_audio(tmp_path / f"a.{suffix}") == AudioInfo(8000, 2, 10400)
    assert not is_truncated(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
def test_samples_of_every_format_are_those_written(
    tmp_path: Path, suffix: str, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / f"a.{suffix}"
    speech = make_speech(2, 1.5)
    length = write_audio(file, speech)

    samples = read_audio(file, whole(length), FMT)

    assert samples.dtype == np.float32
    assert samples.shape == (length,)

    # 16 bits round to 2^-16; the codecs that lose something are measured in energy.
    if suffix in ("wav", "flac"):
        np.testing.assert_allclose(samples, speech, rtol=0, atol=2**-15)
    else:
        assert np.sum((samples - speech) ** 2) < 0.05 * np.sum(speech**2)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("entry", [whole(24000), part(5000, 16000)])
def test_part_equals_the_same_part_of_the_whole(
    tmp_path: Path,
    suffix: str,
    entry: ManifestEntry,
    make_speech: MakeSpeech,
    write_audio: WriteAudio,
) -> None:
    file = tmp_path / f"a.{suffix}"
    write_audio(file, make_speech(3, 1.5))

    all_samples = read_audio(file, whole(24000), FMT)
    samples = read_audio(file, entry, FMT, start=3001, num_samples=7000)

    expected = all_samples[entry.offset + 3001 : entry.offset + 10001]

    # MP3 decoders carry a state over from earlier frames, which a jump leaves out.
    np.testing.assert_allclose(samples, expected, rtol=0, atol=2e-2 if suffix == "mp3" else 0)
    assert np.abs(expected).max() > 0.1


def test_part_without_an_end_goes_to_the_end(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    write_audio(tmp_path / "a.wav", make_speech(4, 1.0))

    assert len(read_audio(tmp_path / "a.wav", part(100, 900), FMT, start=300)) == 600
    assert len(read_audio(tmp_path / "a.wav", part(100, 900), FMT, start=900)) == 0


@pytest.mark.parametrize(("start", "num_samples"), [(-1, 5), (0, 901), (901, None), (5, -1)])
def test_part_outside_of_the_utterance_is_refused(
    tmp_path: Path,
    start: int,
    num_samples: int | None,
    make_speech: MakeSpeech,
    write_audio: WriteAudio,
) -> None:
    write_audio(tmp_path / "a.wav", make_speech(4, 1.0))

    with pytest.raises(ValueError, match="must be within the 900 samples"):
        read_audio(tmp_path / "a.wav", part(9, 900), FMT, start=start, num_samples=num_samples)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("offset", [0, 777])
def test_resampled_part_equals_the_same_part_of_the_whole_resampled(
    tmp_path: Path,
    sample_rate: int,
    offset: int,
    make_speech: MakeSpeech,
    write_audio: WriteAudio,
) -> None:
    file = tmp_path / "a.wav"
    length = write_audio(file, make_speech(5, 1.1, sample_rate), sample_rate)
    entry = part(offset, length - offset - 50)
    fmt = AudioFormat(resample=True)

    stored = soundfile.read(file, dtype="float32")[0][offset : length - 50]
    expected = resample(torch.from_numpy(stored), sample_rate, 16000).numpy()

    assert fmt.convert_length(entry.num_samples, sample_rate) == len(expected)

    samples = read_audio(file, entry, fmt)
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-6)

    for start, num_samples in ((0, 1000), (1, 1), (4321, 8000), (len(expected) - 500, 500)):
        samples = read_audio(file, entry, fmt, start=start, num_samples=num_samples)
        # Another length of the convolution may add in another order.
        np.testing.assert_allclose(
            samples, expected[start : start + num_samples], rtol=0, atol=1e-6
        )


def test_channels_are_averaged_where_that_is_allowed(
    tmp_path: Path, make_speech: MakeSpeech
) -> None:
    left, right = make_speech(6, 1.0), make_speech(7, 1.0)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")

    samples = read_audio(tmp_path / "a.wav", whole(16000), AudioFormat(downmix=True))

    np.testing.assert_allclose(samples, (left + right) / 2, rtol=0, atol=1e-7)


def test_other_sample_rate_is_refused_unless_asked_for(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.flac"
    write_audio(file, make_speech(8, 1.0, 8000), 8000)

    assert_refused(file, whole(8000), "sample rate", "must have 16000 Hz, but has 8000 Hz")

    check_header(file, whole(8000), AudioFormat(resample=True), 16000)


def test_stereo_is_refused_unless_asked_for(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.ogg"
    write_audio(file, make_speech(9, 1.0), 16000, 2)

    assert_refused(file, whole(16000), "channels", "must have 1 channel, but has 2")

    check_header(file, whole(16000), AudioFormat(downmix=True), 16000)


@pytest.mark.parametrize("entry", [whole(15999), whole(16001), part(1, 16000), part(16000, 1)])
def test_length_of_a_whole_file_that_is_not_the_manifest_s_is_wrong(
    tmp_path: Path, entry: ManifestEntry, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.wav"
    write_audio(file, make_speech(10, 1.0))

    assert_refused(file, entry, "wrong length", "has 16000 samples, but the manifest")


def test_part_that_ends_with_the_file_is_right(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    write_audio(tmp_path / "a.wav", make_speech(10, 1.0))

    info = check_header(tmp_path / "a.wav", part(12000, 4000), FMT, 4000)

    assert info == AudioInfo(16000, 1, 16000)


def test_short_utterance_is_refused_by_its_length_at_the_wanted_rate(
    tmp_path: Path, make_speech: MakeSpeech, write_audio: WriteAudio
) -> None:
    file = tmp_path / "a.wav"
    write_audio(file, make_speech(11, 1.0, 48000), 48000)

    with pytest.raises(AudioError, match="at least 4001 samples at 16000 Hz, but has 4000") as info:
        check_header(file, part(0, 12000), AudioFormat(resample=True), 4001)

    assert info.value.reason == "too short"

    check_header(file, part(0, 12000), AudioFormat(resample=True), 4000)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.wav", whole(5), "missing", "does not exist")
    assert_refused(tmp_path, whole(5), "unreadable", "is not a file")

    file = tmp_path / "file"
    file.write_text("x")
    assert_refused(file / "a.wav", whole(5), "missing", "does not exist")


@pytest.mark.parametrize("suffix", [*FORMATS, "raw", "txt"])
def test_text_is_unreadable_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    file.write_text("this is no audio, whatever its name says\n" * 50)

    assert_refused(file, whole(16000), "unreadable", "is not audio")


@pytest.mark.parametrize("suffix", FORMATS)
def test_file_without_bytes_is_empty(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").touch()

    assert_refused(tmp_path / f"a.{suffix}", whole(5), "empty", "has no bytes")


def test_file_without_samples_is_empty(tmp_path: Path, write_audio: WriteAudio) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(0, np.float32))

    assert_refused(tmp_path / "a.wav", whole(5), "empty", "has no samples")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sample_that_is_not_finite_is_refused(
    tmp_path: Path, value: float, make_speech: MakeSpeech
) -> None:
    file = tmp_path / "a.wav"
    samples = make_speech(12, 1.0)
    samples[8000] = value
    soundfile.write(file, samples, 16000, subtype="FLOAT")

    with pytest.raises(AudioError, match="infinite or not a number") as info:
        read_audio(file, whole(16000), FMT)

    assert info.value.reason == "not finite"
    assert len(read_audio(file, whole(16000), FMT, start=8001)) == 7999


def test_silence_is_no_fault(tmp_path: Path, write_audio: WriteAudio) -> None:
    write_audio(tmp_path / "a.flac", np.zeros(16000, np.float32))

    check_header(tmp_path / "a.flac", whole(16000), FMT, 400)
    assert not read_audio(tmp_path / "a.flac", whole(16000), FMT).any()
