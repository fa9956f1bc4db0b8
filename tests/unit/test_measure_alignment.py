"""Word borders are read off phone labels, and the distance of a CTM from them is what was planted."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from eqssl_speech.decoding.alignment import Word
from eqssl_speech.tasks.align.ctm import write_ctm


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    file = Path(__file__).parents[2] / "tools" / "measure_alignment.py"
    spec = importlib.util.spec_from_file_location("measure_alignment", file)
    assert spec is not None
    assert spec.loader is not None

    module = importlib.util.module_from_spec(spec)

    # Where its dataclasses look their annotations up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    return module


def write_labels(file: Path, phones: str) -> Path:
    """Write a label file in which each phone lasts as many hundredths of a second as its place among them, plus 3."""
    lines, end = ["#"], 0
    for index, phone in enumerate(phones.split()):
        end += index + 3
        lines.append(f"{end / 100:.5f} 125 {phone}")

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))

    return file


def border_s(index: int) -> float:
    """Return the begin of the phone with that index."""
    return sum(i + 3 for i in range(index)) / 100


@pytest.mark.parametrize(
    ("word", "classes"),
    [
        ("босую", "PVSVJV"),
        ("её", "JVJV"),
        ("семью", "SVMJV"),
        ("объявлением", "VPJVFLVNVJVM"),
        ("чай", "QVJ"),
        ("щётка", "XVTKV"),
        ("что", "XTV"),
        ("чтобы", "XTVPV"),
        ("счастье", "XVSTJV"),
        ("qu", "??"),
        ("ь", "?"),
    ],
)
def test_letters_have_the_classes_of_their_sounds(
    tool: ModuleType, word: str, classes: str
) -> None:
    assert tool.classify(word) == classes


def test_borders_lie_between_phones_and_pauses_belong_to_no_word(
    tool: ModuleType, tmp_path: Path
) -> None:
    # "об этом, что": the б is devoiced, and there are two pauses before the last word.
    file = write_labels(tmp_path / "a.lab", "pau a p ee t ay m pau pau sh t oo pau")

    words = tool.find_words(["об", "этом", "что"], tool.read_labels(file))

    assert [w.start_s for w in words] == pytest.approx([border_s(1), border_s(3), border_s(9)])
    assert [w.end_s for w in words] == pytest.approx([border_s(3), border_s(7), border_s(12)])


def test_silent_letters_within_words_do_no_harm(tool: ModuleType, tmp_path: Path) -> None:
    # "солнце его бьётся", in which л and т are silent, г is a в, and тс a ц.
    phones = "s oo n c e j e v oo b j oo c a"
    file = write_labels(tmp_path / "a.lab", phones)

    words = tool.find_words(["солнце", "его", "бьётся"], tool.read_labels(file))

    assert [w.start_s for w in words] == pytest.approx([0.0, border_s(5), border_s(9)])
    assert [w.end_s for w in words] == pytest.approx([border_s(5), border_s(9), border_s(14)])


def test_border_that_is_not_said_as_written_is_not_used(tool: ModuleType, tmp_path: Path) -> None:
    # Two words share a т; a sound that nobody wrote stands before the last word; the first begins with another.
    file = write_labels(tmp_path / "a.lab", "m oo t aa m f yy")

    words = tool.find_words(["тот", "там", "ы"], tool.read_labels(file))

    assert [w.start_s for w in words] == [None, None, None]
    assert [w.end_s for w in words] == [None, None, pytest.approx(border_s(7))]


def test_distances_are_those_planted(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = write_labels(tmp_path / "lab" / "ru_0001.lab", "pau a p ee t ay m pau").parent
    first, between, last = border_s(1), border_s(3), border_s(7)

    words = [
        Word("об", first + 0.02, between - 0.03, 1.0),
        Word("этом", between + 0.06, last - 0.2, 1.0),
    ]
    ctm = write_ctm(
        tmp_path / "a.ctm",
        [("audio/ru_0001.flac", words), ("audio/ru_0001.flac:0:9", words), ("audio/x.ogg", words)],
    )

    argv = ["measure_alignment.py", ctm, "--labels", labels, "--json", tmp_path / "a.json"]
    monkeypatch.setattr("sys.argv", [str(arg) for arg in argv])

    assert tool.main() == 0

    report = json.loads((tmp_path / "a.json").read_text())
    starts, ends, both = (report["borders"][name] for name in ("starts", "ends", "both"))

    assert report["utterances"] == 1
    assert report["utterances_without_labels"] == ["audio/ru_0001.flac:0:9", "audio/x.ogg"]
    assert starts["bias_ms"] == starts["median_ms"] == 40.0
    assert starts["within"] == {"20_ms": 0.5, "50_ms": 0.5, "100_ms": 1.0}
    assert (ends["bias_ms"], ends["mean_ms"]) == (-115.0, 115.0)
    assert (both["used"], both["skipped"], both["mean_ms"]) == (4, 0, 77.5)
    assert both["bias_ms"] == -5.0
    assert both["within"]["50_ms"] == 0.5

    captured = capsys.readouterr()

    assert "audio/x.ogg" in captured.err
    assert "-115" in captured.out


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0.1 125 a\n", "no line `#`"),
        ("#\n0.1 125 a\n0.1 125 b\n", "does not end after"),
        ("#\n0.1 125 qq\n", "`qq` is unknown"),
        ("#\n0.1 a\n", "is not `end_s 125 phone`"),
    ],
)
def test_damaged_labels_are_one_sentence(
    tool: ModuleType,
    tmp_path: Path,
    labels: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.lab").write_text(labels)
    ctm = write_ctm(tmp_path / "a.ctm", [("a.flac", [Word("а", 0.0, 1.0, 1.0)])])

    monkeypatch.setattr("sys.argv", ["tool", str(ctm), "--labels", str(tmp_path)])

    assert tool.main() == 2
    assert message in capsys.readouterr().err


def test_labels_that_are_no_text_are_one_sentence(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.lab").write_bytes(b"#\n0.1 125 a\n0.2 125 \xff\n")
    ctm = write_ctm(tmp_path / "a.ctm", [("a.flac", [Word("а", 0.0, 1.0, 1.0)])])

    monkeypatch.setattr("sys.argv", ["tool", str(ctm), "--labels", str(tmp_path)])

    assert tool.main() == 2
    assert "a.lab: cannot be read as UTF-8 text" in capsys.readouterr().err


def test_ctm_of_other_recordings_is_one_sentence(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ctm = write_ctm(tmp_path / "a.ctm", [("other.flac", [Word("а", 0.0, 1.0, 1.0)])])

    monkeypatch.setattr("sys.argv", ["tool", str(ctm), "--labels", str(tmp_path)])

    assert tool.main() == 2
    assert "no word can be compared" in capsys.readouterr().err
