"""Recognition of recordings of all kinds: good ones to the letter, bad ones named, long ones without a cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from spelled_audio import HOP, RATE, SpelledRecognizer, spell, write_spelled

from eqssl_speech.decoding.greedy import decode_greedy
from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.decoder import Search
from eqssl_speech.tasks.transcribe.inputs import InputFile, find_inputs
from eqssl_speech.tasks.transcribe.planning import EmissionOptions, plan_batches
from eqssl_speech.tasks.transcribe.result import Transcript
from eqssl_speech.tasks.transcribe.transcribe import Failure, open_recordings, transcribe

OPTIONS = EmissionOptions(max_segment_s=20.0, batch_s=20.0, num_readers=2)


def run(
    paths: Sequence[Path],
    options: EmissionOptions = OPTIONS,
    recognizer: SpelledRecognizer | None = None,
    progress: list[float] | None = None,
) -> list[Transcript | Failure]:
    files = [InputFile(path, Path(path.stem)) for path in paths]
    model = recognizer or SpelledRecognizer()

    recordings = open_recordings(files, model, options.num_readers)  # type: ignore[arg-type]

    return list(
        transcribe(
            recordings,
            model,  # type: ignore[arg-type]
            Search(decode_greedy),
            options,
            on_progress=None if progress is None else progress.append,
        )
    )


def texts(results: Sequence[Transcript | Failure]) -> list[str]:
    return [r.text if isinstance(r, Transcript) else f"({r.error.reason})" for r in results]


def draw_text(seed: int, num_words: int) -> str:
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrstuvwxyz")

    return " ".join("".join(rng.choice(letters, rng.integers(1, 9))) for _ in range(num_words))


def draw_pauses(seed: int, text: str) -> dict[int, int]:
    rng = np.random.default_rng(seed)

    return {i: int(rng.integers(5, 25)) for i, char in enumerate(text) if char == " "}


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_every_rate_and_number_of_channels_is_recognised(
    tmp_path: Path, suffix: str, sample_rate: int, num_channels: int
) -> None:
    file = tmp_path / f"a b ё {sample_rate}.{suffix}"
    write_spelled(file, "grüße an die welt", sample_rate, num_channels)

    (result,) = run([file])

    assert isinstance(result, Transcript)
    assert result.text == "grüße an die welt"
    assert result.duration_s == pytest.approx(len(spell("grüße an die welt")) / RATE, abs=1e-3)


def test_stereo_is_averaged(tmp_path: Path) -> None:
    samples = spell("both sides")
    soundfile.write(tmp_path / "a.wav", np.stack([0.9 * samples, 1.1 * samples], axis=1), RATE)

    assert texts(run([tmp_path / "a.wav"])) == ["both sides"]


def test_words_have_times_and_confidences(tmp_path: Path) -> None:
    write_spelled(tmp_path / "a.wav", "ab cd", char_frames=3, gap_frames=2)

    (result,) = run([tmp_path / "a.wav"])

    assert isinstance(result, Transcript)

    first, second = result.words

    # Five frames of silence, then three frames of each label and two of blank.
    assert (first.text, second.text) == ("ab", "cd")
    assert first.start_s == pytest.approx(5 * 0.02, abs=0.07)
    assert first.end_s == pytest.approx(13 * 0.02, abs=0.07)
    assert second.start_s == pytest.approx(20 * 0.02, abs=0.07)
    assert first.end_s <= second.start_s

    assert 0.9 < first.confidence < 0.91
    assert result.confidence == pytest.approx((first.confidence + second.confidence) / 2)


def test_silence_is_a_transcript_without_words(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE, dtype=np.float32), RATE)

    (result,) = run([tmp_path / "a.wav"])

    assert isinstance(result, Transcript)
    assert (result.text, result.words, result.confidence) == ("", (), None)


def make_bad_files(folder: Path) -> dict[str, Path]:
    """Make one file of each way to be bad; the key says which."""
    files = {name: folder / f"{name}.wav" for name in ("missing", "empty", "unreadable")}

    files["empty"].touch()
    files["unreadable"].write_bytes(b"not audio at all" * 99)

    files["truncated"] = folder / "truncated.wav"
    write_spelled(files["truncated"], "cut off")
    files["truncated"].write_bytes(files["truncated"].read_bytes()[:-5000])

    files["too short"] = folder / "one sample.wav"
    soundfile.write(files["too short"], np.zeros(1, dtype=np.float32), RATE)

    files["not finite"] = folder / "nan.wav"
    samples = spell("broken")
    samples[700] = np.nan
    soundfile.write(files["not finite"], samples, RATE, subtype="FLOAT")

    return files


def test_bad_files_are_named_in_their_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = make_bad_files(tmp_path)

    files: list[Path] = []
    for index, path in enumerate(bad.values()):
        good = tmp_path / f"good {index}.flac"
        write_spelled(good, f"the {'abcdefgh'[index]} th")
        files += [good, path]

    progress: list[float] = []
    results = run(files, progress=progress)

    expected = []
    for index, reason in enumerate(bad):
        expected += [f"the {'abcdefgh'[index]} th", f"({reason})"]

    assert texts(results) == expected

    for result in results:
        if isinstance(result, Failure):
            assert str(result.file.path) in str(result.error)

    assert sum(progress) == pytest.approx(
        sum(r.duration_s for r in results if isinstance(r, Transcript))
        + len(spell("broken")) / RATE
    )


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_recording_too_short_for_a_frame_is_named(tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(samples, dtype=np.float32), RATE)

    assert texts(run([tmp_path / "a.wav"])) == ["(empty)" if samples == 0 else "(too short)"]


def test_recording_of_one_frame_is_recognised(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(400, dtype=np.float32), RATE)

    assert texts(run([tmp_path / "a.wav"])) == [""]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_segment_s", [3.0, 7.0, 20.0])
def test_long_recording_reads_as_its_text(tmp_path: Path, seed: int, max_segment_s: float) -> None:
    text = draw_text(seed, 150)
    write_spelled(tmp_path / "long.flac", text, pauses=draw_pauses(seed, text))

    progress: list[float] = []
    recognizer = SpelledRecognizer()
    options = EmissionOptions(max_segment_s=max_segment_s, batch_s=20.0, num_readers=2)

    (result,) = run([tmp_path / "long.flac"], options, recognizer, progress)

    assert texts([result]) == [text]

    lengths = [n for batch in recognizer.batches for n in batch]

    assert len(lengths) > 3
    assert max(lengths) <= max_segment_s * RATE
    assert len(set(lengths)) == 1

    assert isinstance(result, Transcript)
    assert sum(progress) == pytest.approx(result.duration_s)
    assert max(progress) <= max_segment_s


@pytest.mark.parametrize("max_segment_s", [4.0, 9.0])
def test_words_of_a_long_recording_have_the_times_of_the_short_one(
    tmp_path: Path, max_segment_s: float
) -> None:
    text = draw_text(9, 60)
    write_spelled(tmp_path / "a.flac", text, pauses=draw_pauses(9, text))

    short_options = EmissionOptions(max_segment_s=1000.0, num_readers=1)
    long_options = EmissionOptions(max_segment_s=max_segment_s, batch_s=30.0, num_readers=3)

    (whole,) = run([tmp_path / "a.flac"], short_options)
    (joined,) = run([tmp_path / "a.flac"], long_options)

    assert isinstance(whole, Transcript)
    assert isinstance(joined, Transcript)

    for ours, theirs in zip(joined.words, whole.words, strict=True):
        assert ours.text == theirs.text
        assert ours.start_s == pytest.approx(theirs.start_s, abs=1e-9)
        assert ours.end_s == pytest.approx(theirs.end_s, abs=1e-9)
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-6)


@pytest.mark.parametrize("sample_rate", [8_000, 44_100])
def test_long_recording_of_another_rate_reads_as_its_text(tmp_path: Path, sample_rate: int) -> None:
    text = draw_text(5, 60)
    write_spelled(tmp_path / "a.wav", text, sample_rate, 2, pauses=draw_pauses(5, text))

    options = EmissionOptions(max_segment_s=5.0, batch_s=10.0, num_readers=2)

    assert texts(run([tmp_path / "a.wav"], options)) == [text]


def test_long_recording_damaged_in_the_middle_is_named_once_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    text = draw_text(4, 120)
    write_spelled(tmp_path / "long.flac", text, pauses=draw_pauses(4, text))
    write_spelled(tmp_path / "after.flac", "after")

    data = bytearray((tmp_path / "long.flac").read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (tmp_path / "long.flac").write_bytes(bytes(data))

    options = EmissionOptions(max_segment_s=4.0, batch_s=12.0, num_readers=2)

    results = run([tmp_path / "long.flac", tmp_path / "after.flac"], options)

    assert texts(results) in (["(unreadable)", "after"], ["(truncated)", "after"])


def test_memory_of_an_hour_is_that_of_a_few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is read: what is held follows from the plan.
    hour = 3600 * RATE
    options = EmissionOptions(max_segment_s=20.0, batch_s=60.0)

    (unit,) = plan_batches([hour], SpelledRecognizer(), options)  # type: ignore[arg-type]

    assert len(unit) > 60
    assert all(sum(piece.num_samples for piece in batch) <= 60 * RATE for batch in unit)


def test_short_recordings_share_batches_within_the_budget() -> None:
    lengths = np.random.default_rng(1).integers(400, 12 * RATE, 200).tolist()
    options = EmissionOptions(batch_s=30.0)

    units = plan_batches(lengths, SpelledRecognizer(), options)  # type: ignore[arg-type]

    pieces = [piece for unit in units for batch in unit for piece in batch]

    assert [piece.item for piece in pieces] == list(range(200))
    assert [piece.num_samples for piece in pieces] == lengths
    assert all(piece.window.num_frames == (n - 400) // HOP + 1 for piece, n in zip(pieces, lengths))

    for unit in units:
        (batch,) = unit
        longest = max(piece.num_samples for piece in batch)
        assert len(batch) * longest <= 30 * RATE

    # Full: the first of the next batch did not fit.
    for (batch,), (following,) in pairwise(units):
        longest = max(piece.num_samples for piece in (*batch, following[0]))
        assert (len(batch) + 1) * longest > 30 * RATE


def test_batch_smaller_than_a_recording_holds_that_recording() -> None:
    units = plan_batches([RATE, 9 * RATE], SpelledRecognizer(), EmissionOptions(batch_s=0.5))  # type: ignore[arg-type]

    assert [len(batch) for unit in units for batch in unit] == [1, 1]


@pytest.mark.parametrize(
    "options", [EmissionOptions(max_segment_s=1.0), EmissionOptions(batch_s=0)]
)
def test_options_out_of_range_are_refused(options: EmissionOptions) -> None:
    with pytest.raises(InputError, match="must be"):
        plan_batches([RATE], SpelledRecognizer(), options)  # type: ignore[arg-type]


def test_folder_is_transcribed_in_its_order(tmp_path: Path) -> None:
    for name in ("z.wav", "ё/a.flac", "b c.wav"):
        write_spelled(tmp_path / name, "ab" * len(name))

    files = [f.path for f in find_inputs([str(tmp_path)]).files]

    assert texts(run(files)) == ["ab" * 7, "ab" * 5, "ab" * 8]
