"""`eqssl check --ctc`: what it prints, and when it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eqssl_speech.cli import main


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: Callable[..., Path]) -> Path:
    directory = make_corpus(tmp_path / "corpus", transcripts=True)

    for file in directory.glob("*/*.wrd"):
        file.write_text(file.read_text().translate(str.maketrans("0123456789", "abcdefghij")))

    return directory


def test_command_names_each_finding_and_goes_on(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "de" / "train.wrd").write_text("a\nb 2\nc\nd\ne\n" + "f" * 300 + "\n")

    assert main(["check", str(corpus), "--ctc", "--jobs", "1"]) == 0

    out = capsys.readouterr().out
    assert f"  {corpus}/de/train.tsv:3: the text holds the digit `2`" in out
    assert f"  {corpus}/de/train.tsv:7: 300 labels need 599 frames" in out


def test_command_fails_where_a_source_cannot_be_trained_on(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "de" / "train.wrd").write_text("1\n" * 6)

    assert main(["check", str(corpus), "--jobs", "1"]) == 0
    assert main(["check", str(corpus), "--ctc", "--jobs", "1"]) == 2

    assert "source `de` can be used (6 refused)" in capsys.readouterr().err


def test_command_takes_short_recordings_for_fine_tuning(
    tmp_path: Path, make_corpus: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_corpus(
        tmp_path / "c", min_duration_s=0.7, max_duration_s=0.9, transcripts=True
    )

    assert main(["check", str(directory), "--jobs", "1"]) == 2
    assert main(["check", str(directory), "--ctc", "--min-audio-s", "1", "--jobs", "1"]) == 2
    capsys.readouterr()

    for file in directory.glob("*/*.wrd"):
        file.write_text("ja\n" * len(file.read_text().splitlines()))

    assert main(["check", str(directory), "--ctc", "--jobs", "1"]) == 0


def test_command_refuses_what_it_cannot_do_before_reading(corpus: Path, tmp_path: Path) -> None:
    (corpus / "de" / "train.wrd").unlink()

    assert main(["check", str(corpus), "--tokenizer", str(tmp_path)]) == 2
    assert main(["check", str(corpus), "--ctc", "--tokenizer", str(tmp_path)]) == 2
    assert main(["check", str(corpus), "--ctc", "--source", "de"]) == 2


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"a\n" * 99, "has 99 lines, but"), (b"\xff\xfea\n", "is not UTF-8 text")],
)
def test_command_finds_mistaken_text_before_it_decodes_audio(
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    content: bytes,
    fault: str,
) -> None:
    def check_header(*args: object) -> None:
        raise AssertionError("a recording was looked at")

    monkeypatch.setattr("eqssl_speech.data.check.check_header", check_header)
    file = corpus / "en" / f"{split}.wrd"
    file.write_bytes(content)

    assert main(["check", str(corpus), "--ctc", "--jobs", "1"]) == 2

    assert f"eqssl: {file}: " in (err := capsys.readouterr().err)
    assert fault in err


def test_command_leaves_mistaken_manifests_to_the_check_of_the_audio(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "de" / "valid.tsv").write_text("nowhere\n")

    assert main(["check", str(corpus), "--ctc", "--jobs", "1"]) == 2

    captured = capsys.readouterr()
    assert "audio root" in captured.err
    assert "text, for CTC" in captured.out


def test_command_says_what_has_no_text(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "de" / "train.wrd").unlink()

    assert main(["check", str(corpus), "--ctc", "--jobs", "1"]) == 0

    assert "no training text (train.wrd): de." in capsys.readouterr().out
