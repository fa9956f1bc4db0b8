"""``eqssl transcribe``: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile
from spelled_audio import RATE, SpelledRecognizer, spell, write_spelled

from eqssl_speech.cli import transcribe as command
from eqssl_speech.error import InputError
from eqssl_speech.tasks.transcribe.subtitles import parse_subtitles

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs the command with a stand-in for the model."""
    module = ModuleType("eqssl_speech.tasks.recognizer")
    module.load_recognizer = lambda path, **more: SpelledRecognizer()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eqssl_speech.tasks.recognizer", module)

    def run_command(*args: object) -> int:
        parser = ArgumentParser()
        command.add(parser.add_subparsers())
        options = parser.parse_args(["transcribe", "model", *map(str, args), "--jobs", "2"])

        status: int = options.run(options)

        return status

    return run_command


def test_text_goes_to_the_standard_output(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spelled(tmp_path / "b.wav", "the first")
    write_spelled(tmp_path / "ё с.flac", "мир äöü")

    assert run(tmp_path) == 0

    captured = capsys.readouterr()

    assert captured.out == f"{tmp_path}/b.wav\tthe first\n{tmp_path}/ё с.flac\tмир äöü\n"
    assert "2 transcribed (0:00:0" in captured.err


def test_json_lines_go_to_the_standard_output(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spelled(tmp_path / "a.wav", "ab cd")

    assert run(tmp_path, "--format", "json", "--language", "en") == 0

    (line,) = capsys.readouterr().out.splitlines()
    record: dict[str, Any] = json.loads(line)

    assert record["file"] == f"{tmp_path}/a.wav"
    assert record["text"] == "ab cd"
    assert record["language"] == "en"
    assert record["model"] == "spelled audio"
    assert [word["word"] for word in record["words"]] == ["ab", "cd"]

    for word in record["words"]:
        assert 0 <= word["start_s"] < word["end_s"] <= record["duration_s"]
        assert 0.9 <= word["confidence"] <= 0.91


def test_all_formats_are_written_beside_each_other(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spelled(tmp_path / "in" / "deep" / "a.b.wav", "one two")

    out = tmp_path / "made" / "here"
    formats = [arg for fmt in ("txt", "json", "srt", "vtt") for arg in ("--format", fmt)]

    assert run(tmp_path / "in", "--out", out, *formats) == 0

    assert sorted(f.name for f in (out / "deep").iterdir()) == [
        "a.b.json",
        "a.b.srt",
        "a.b.txt",
        "a.b.vtt",
    ]
    assert (out / "deep" / "a.b.txt").read_text() == "one two\n"

    record = json.loads((out / "deep" / "a.b.json").read_text())
    assert record["text"] == "one two"

    for fmt in ("srt", "vtt"):
        (cue,) = parse_subtitles((out / "deep" / f"a.b.{fmt}").read_text())

        assert cue.lines == ("one two",)
        assert cue.start_s == pytest.approx(record["words"][0]["start_s"], abs=1e-3)

    assert capsys.readouterr().out == ""


def test_bad_files_are_named_on_stderr_and_end_with_status_1(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spelled(tmp_path / "a.wav", "good")
    (tmp_path / "b.wav").write_bytes(b"not audio")
    soundfile.write(tmp_path / "c.wav", spell("x")[:1], RATE)

    missing = tmp_path / "d.wav"

    assert run(tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "c.wav", missing) == 1

    captured = capsys.readouterr()

    assert captured.out == f"{tmp_path}/a.wav\tgood\n"
    assert f"failed (unreadable): {tmp_path}/b.wav" in captured.err
    assert f"failed (too short): {tmp_path}/c.wav" in captured.err
    assert f"failed (missing): {missing}" in captured.err
    assert "1 transcribed" in captured.err
    assert "3 failed." in captured.err


def test_recordings_without_a_word_are_counted(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spelled(tmp_path / "a.wav", "")
    write_spelled(tmp_path / "b.wav", "b")

    assert run(tmp_path) == 0

    captured = capsys.readouterr()

    assert captured.out == f"{tmp_path}/a.wav\t\n{tmp_path}/b.wav\tb\n"
    assert "2 transcribed (0:00:00 of audio in 0:00:0" in captured.err
    assert "1 of them without a word." in captured.err


def test_existing_outputs_are_skipped_unless_overwritten(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_spelled(tmp_path / "in" / f"{name}.wav", name * 3)

    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text("corrected by hand\n")

    assert run(tmp_path / "in", "--out", out) == 0
    assert "1 transcribed" in (err := capsys.readouterr().err)
    assert "1 skipped" in err
    assert (out / "a.txt").read_text() == "corrected by hand\n"
    assert (out / "b.txt").read_text() == "bbb\n"

    assert run(tmp_path / "in", "--out", out) == 0
    assert "2 skipped" in capsys.readouterr().err

    assert run(tmp_path / "in", "--out", out, "--overwrite") == 0
    assert "2 transcribed" in capsys.readouterr().err
    assert (out / "a.txt").read_text() == "aaa\n"


def test_only_missing_formats_are_written(tmp_path: Path, run: Run) -> None:
    write_spelled(tmp_path / "a.wav", "abc")

    (tmp_path / "a.txt").write_text("corrected by hand\n")

    assert run(tmp_path / "a.wav", "--out", tmp_path, "--format", "txt", "--format", "srt") == 0

    assert (tmp_path / "a.txt").read_text() == "corrected by hand\n"
    assert "abc" in (tmp_path / "a.srt").read_text()


def test_colliding_outputs_are_refused_before_anything_is_done(tmp_path: Path, run: Run) -> None:
    write_spelled(tmp_path / "x" / "a.wav", "one")
    write_spelled(tmp_path / "y" / "a.wav", "two")

    with pytest.raises(InputError, match="would both be written"):
        run(tmp_path / "x" / "a.wav", tmp_path / "y" / "a.wav", "--out", tmp_path / "out")

    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("formats", [["srt"], ["vtt"], ["txt", "json"]])
def test_files_need_a_directory(tmp_path: Path, run: Run, formats: list[str]) -> None:
    write_spelled(tmp_path / "a.wav", "one")

    with pytest.raises(InputError, match="`--out DIR`"):
        run(tmp_path, *(arg for fmt in formats for arg in ("--format", fmt)))


def test_output_directory_that_is_a_file_is_refused(tmp_path: Path, run: Run) -> None:
    write_spelled(tmp_path / "a.wav", "one")
    (tmp_path / "out").touch()

    with pytest.raises(InputError, match="cannot be made"):
        run(tmp_path, "--out", tmp_path / "out")


def test_unknown_language_is_refused_with_the_known_ones(tmp_path: Path, run: Run) -> None:
    write_spelled(tmp_path / "a.wav", "one")

    with pytest.raises(InputError, match=r"`xx`.*`en`, `de`, `ru`"):
        run(tmp_path, "--language", "xx")


def test_name_that_is_not_unicode_is_named_and_the_rest_goes_on(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        write_spelled(tmp_path / f"{name}.wav", name)

    (tmp_path / "b.wav").rename(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9\n.wav"))

    status = run(tmp_path)

    captured = capsys.readouterr()

    assert f"{tmp_path}/a.wav\ta\n" in captured.out
    assert f"{tmp_path}/c.wav\tc\n" in captured.out

    # libsndfile's binding may or may not be able to open it.
    if status == 0:
        assert f"{tmp_path}/b\ufffd\ufffd.wav\tb\n" in captured.out
    else:
        assert f"failed (unreadable): {tmp_path}/b" in captured.err


def test_interrupted_run_leaves_whole_outputs_and_goes_on(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        write_spelled(tmp_path / "in" / f"{name}.wav", name * 60)

    calls = 0
    emit = SpelledRecognizer.emit

    def interrupt(self: SpelledRecognizer, waveforms: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return emit(self, waveforms)

    monkeypatch.setattr(SpelledRecognizer, "emit", interrupt)

    args = [tmp_path / "in", "--out", tmp_path / "out", "--batch-seconds", "1"]

    with pytest.raises(KeyboardInterrupt):
        run(*args)

    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a.txt", "b.txt"]

    assert run(*args) == 0
    assert calls == 5

    for name in "abcd":
        assert (tmp_path / "out" / f"{name}.txt").read_text() == f"{name * 60}\n"
