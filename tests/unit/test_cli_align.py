"""``eqssl align``: the file that it writes, and what it says."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from spelled_audio import SpelledRecognizer
from spelled_corpus import make_spelled_corpus

from eqssl_speech import cli
from eqssl_speech.cli import align as command
from eqssl_speech.error import InputError
from eqssl_speech.tasks.align.ctm import read_ctm

Run = Callable[..., int]


@pytest.fixture
def recognizer() -> SpelledRecognizer:
    return SpelledRecognizer()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, recognizer: SpelledRecognizer) -> Run:
    """Return a function that runs the command with a stand-in for the model."""
    module = ModuleType("eqssl_speech.tasks.recognizer")
    module.load_recognizer = lambda path, **more: recognizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eqssl_speech.tasks.recognizer", module)

    def run_command(*args: object) -> int:
        parser = ArgumentParser()
        command.add(parser.add_subparsers())
        options = parser.parse_args(["align", "runs/model", *map(str, args), "--jobs", "2"])

        status: int = options.run(options)

        return status

    return run_command


def test_all_texts_are_written_and_summed_up_by_source(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = make_spelled_corpus(tmp_path / "c", num_utterances=6)
    out = tmp_path / "deep" / "test.ctm"

    # An utterance in which a letter of the text was left out may be too short for it.
    assert run(tmp_path / "c", "--out", out) == 0

    captured = capsys.readouterr()
    found = {name: " ".join(w.text for w in words) for name, words in read_ctm(out).items()}
    left_out = captured.err.count("left out (too short for its labels)")

    expected = {f"{p.source}/{p.id}": p.reference for p in planted}

    assert found == {name: text for name, text in expected.items() if name in found}
    assert list(found) == [name for name in expected if name in found]
    assert len(found) == len(planted) - left_out
    assert "en-read/audio/00%20ü.flac 1 " in out.read_text()

    rows = {line.split()[0]: line.split()[1:] for line in captured.out.splitlines() if line.split()}

    assert rows["all"][:2] == [str(len(found)), str(sum(len(t.split()) for t in found.values()))]
    assert rows["de-read"][0] == str(sum(name.startswith("de-read/") for name in found))
    assert 0.0 < float(rows["all"][-1]) < 1.0
    assert rows["Written:"] == [str(out)]


def test_one_source_of_another_split_has_the_names_of_the_manifest(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5, split="valid")

    args = ["--split", "valid", "--source", "ru-read", "--out", tmp_path / "ru.ctm"]
    assert run(tmp_path / "c", *args) == 0

    assert set(read_ctm(tmp_path / "ru.ctm")) <= {"audio/00 ü.flac", "audio/01 ü.flac"}
    assert not any(line.startswith("all") for line in capsys.readouterr().out.splitlines())


def test_left_out_utterances_are_named_and_counted(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)
    folder = tmp_path / "c" / "en-film"

    (folder / "audio" / "00 ü.flac").unlink()
    lines = (folder / "test.wrd").read_text().splitlines()
    (folder / "test.wrd").write_text("".join(f"{x}\n" for x in [lines[0], "naïf", *lines[2:]]))
    (tmp_path / "c" / "de-read" / "test.wrd").unlink()

    assert run(tmp_path / "c", "--out", tmp_path / "a.ctm") == 0

    err = capsys.readouterr().err

    assert f"left out (missing): {folder}/audio/00 ü.flac" in err
    assert f"left out (unknown characters): {folder}/audio/01 ü.flac: the text has `ï`" in err
    assert "left out: de-read: " in err
    assert "utterances left out: " in err
    assert "1 missing" in err
    assert "1 unknown characters" in err


def test_file_that_exists_is_kept_unless_overwritten(
    tmp_path: Path, run: Run, recognizer: SpelledRecognizer
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)
    out = tmp_path / "a.ctm"
    out.write_text("corrected by hand\n")

    with pytest.raises(InputError, match=r"a\.ctm: exists already; give another `--out`, or `--ov"):
        run(tmp_path / "c", "--out", out)

    assert out.read_text() == "corrected by hand\n"
    assert recognizer.batches == []

    assert run(tmp_path / "c", "--out", out, "--overwrite") == 0
    assert "en-read/audio/00 ü.flac" in read_ctm(out)


def test_interrupted_run_leaves_no_file(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)

    def interrupt(self: SpelledRecognizer, waveforms: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SpelledRecognizer, "emit", interrupt)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", "--out", tmp_path / "out" / "a.ctm")

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--split", "dev"], "no source has the split `dev`"),
        (["--source", "en-raed"], "`en-read` is the closest"),
        (["--source", "ru-read", "--split", "dev"], "the source has no such split"),
        (["--max-segment-s", 0.5], "`max_segment_s` must be at least 2"),
        (["--out", "."], "is a directory; give the file to write"),
    ],
)
def test_mistakes_are_one_sentence_before_the_model_runs(
    tmp_path: Path, run: Run, recognizer: SpelledRecognizer, args: list[object], message: str
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)

    with pytest.raises(InputError, match=message):
        run(tmp_path / "c", "--out", tmp_path / "a.ctm", *args)

    assert recognizer.batches == []
    assert not (tmp_path / "a.ctm").exists()


def test_what_is_no_regular_file_is_not_replaced(
    tmp_path: Path, run: Run, recognizer: SpelledRecognizer
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)

    # Stands for /dev/null, of which a mistake here would deprive the machine.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(InputError, match=r"pipe: is no regular file; give the file to write"):
        run(tmp_path / "c", "--out", pipe, "--overwrite")

    assert pipe.is_fifo()
    assert recognizer.batches == []


def test_directory_that_cannot_be_written_to_is_one_sentence_before_the_model_runs(
    tmp_path: Path, run: Run, recognizer: SpelledRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)

    # What the system says to a user who is not root.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "locked")

    with pytest.raises(InputError, match=r"locked: the directory cannot be written to; give ano"):
        run(tmp_path / "c", "--out", tmp_path / "locked" / "a.ctm")

    assert recognizer.batches == []


def test_directory_that_is_no_recogniser_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)

    args = ["align", str(tmp_path), str(tmp_path / "c"), "--out", str(tmp_path / "a.ctm")]

    assert cli.main(args) == 2
    assert "the output directory of `eqssl finetune`" in capsys.readouterr().err
