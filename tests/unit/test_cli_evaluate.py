"""``eqssl evaluate``: the table, the files, and what it says of what it left out."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.image import imread
from spelled_audio import SpelledRecognizer, write_ngram
from spelled_corpus import SOURCES, make_spelled_corpus

from eqssl_speech.cli import evaluate as command
from eqssl_speech.error import InputError
from eqssl_speech.report.hypotheses import read_hypotheses

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
        options = parser.parse_args(["evaluate", "runs/model", *map(str, args), "--jobs", "2"])

        status: int = options.run(options)

        return status

    return run_command


def load(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())

    return summary


def test_table_holds_every_source_language_domain_and_average(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # A file has no width of its own.

    make_spelled_corpus(tmp_path / "c")

    assert run(tmp_path / "c", "--bootstrap", 50) == 0

    lines = capsys.readouterr().out.splitlines()

    def find(start: str) -> str:
        (line,) = (x for x in lines if x.split()[:1] == [start])
        return line

    for name in ("en-read", "en-film", "de-read", "ru-read"):
        assert find(name)

    for start in ("micro average", "macro, 3 languages", "macro, 4 sources"):
        assert any(line.strip().startswith(start) for line in lines)

    # Fine-tuned on English only.
    assert "de*" in find("de-read")
    assert " en " in find("en-read")
    assert any(line.startswith("Most confused characters") for line in lines)
    assert any(line.startswith("Most confused words") for line in lines)


def test_table_fits_a_terminal_of_80_columns_with_all_error_rates(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_spelled_corpus(tmp_path / "c")

    run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50)
    summary = load(tmp_path / "out")
    capsys.readouterr()

    monkeypatch.setenv("COLUMNS", "80")
    run(tmp_path / "c", "--bootstrap", 50)
    output = capsys.readouterr().out
    table = output[: output.index("Most confused")].splitlines()

    assert max(map(len, table)) <= 80

    titles = {f"{name}{'' if name[:2] == 'en' else '*'}": ("sources", name) for name in SOURCES}
    titles |= {"language: de*": ("languages", "de"), "domain: film": ("domains", "film")}

    for title, (kind, name) in titles.items():
        (line,) = (x for x in table if x.startswith(f"{title} "))
        scores = summary[kind][name]

        expected = [str(scores["utterances"])]
        for rate in (scores["wer"], scores["cer"]):
            low, value, high = (f"{100 * rate[key]:.1f}" for key in ("low", "value", "high"))
            expected += [value, f"{low}-{high}"]
        for kind_of_error in ("substitutions", "deletions", "insertions"):
            share = scores["chars"][kind_of_error] / scores["chars"]["reference"]
            expected.append(f"{100 * share:.1f}")

        assert line.removeprefix(title).split() == expected

    for title in ("micro average", "macro, 3 languages", "macro, 4 sources", "worst language: "):
        assert any(x.startswith(title) for x in table)


def test_table_that_is_too_wide_for_a_terminal_keeps_its_numbers(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)

    run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50)
    micro = load(tmp_path / "out")["micro"]
    capsys.readouterr()

    monkeypatch.setenv("COLUMNS", "30")
    run(tmp_path / "c", "--bootstrap", 50)
    output = capsys.readouterr().out

    assert "…" not in output
    for rate in (micro["wer"], micro["cer"]):
        assert f"{100 * rate['low']:.1f}-{100 * rate['high']:.1f}" in output


def test_summary_holds_the_numbers_of_the_hypotheses(tmp_path: Path, run: Run) -> None:
    make_spelled_corpus(tmp_path / "c")

    assert run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50) == 0

    summary = load(tmp_path / "out")
    utterances = read_hypotheses(tmp_path / "out" / "hypotheses.tsv")

    for kind, key in (("sources", "en-film"), ("languages", "en"), ("domains", "read")):
        chosen = [
            u
            for u in utterances
            if key in (u.source, u.source.split("-")[0], u.source.split("-")[1])
        ]
        scores = summary[kind][key]

        for unit, rate in (("words", "wer"), ("chars", "cer")):
            counts = [getattr(u, unit) for u in chosen]
            num_errors = sum(c.num_errors for c in counts)
            num_reference = sum(c.num_reference for c in counts)

            assert scores[unit]["reference"] == num_reference
            assert scores[unit]["substitutions"] == sum(c.substitutions for c in counts)
            assert scores[unit]["deletions"] == sum(c.deletions for c in counts)
            assert scores[unit]["insertions"] == sum(c.insertions for c in counts)
            assert scores[rate]["value"] == pytest.approx(num_errors / num_reference)
            assert scores[rate]["low"] < scores[rate]["value"] < scores[rate]["high"]

        assert scores["utterances"] == len(chosen)
        assert scores["empty_share"] == sum(not u.hypothesis for u in chosen) / len(chosen)

    worst = max(summary["sources"], key=lambda name: summary["sources"][name]["cer"]["value"])

    assert summary["worst"]["source_by_cer"]["name"] == worst
    assert summary["languages"]["en"]["in_fine_tuning"] is True
    assert summary["languages"]["de"]["in_fine_tuning"] is False
    assert summary["macro_languages"]["groups"] == 3
    assert summary["model"] == "spelled audio"
    assert summary["split"] == "test"


def test_hypotheses_are_sorted_by_error_and_read_back(tmp_path: Path, run: Run) -> None:
    planted = make_spelled_corpus(tmp_path / "c")

    run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50)

    utterances = read_hypotheses(tmp_path / "out" / "hypotheses.tsv")
    rates = [u.chars.rate for u in utterances]

    assert rates == sorted(rates, reverse=True)
    assert {(u.source, u.id, u.reference, u.hypothesis) for u in utterances} == {
        (p.source, p.id, p.reference, p.hypothesis) for p in planted
    }


def test_picture_is_drawn(tmp_path: Path, run: Run) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=4)

    run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50)

    picture = imread(tmp_path / "out" / "summary.png")

    assert picture.shape[0] > 500
    assert picture.std() > 0.05


def test_left_out_utterances_are_named_and_counted(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make_spelled_corpus(tmp_path / "c")

    folder = tmp_path / "c" / "en-read"
    (folder / "audio" / "00 ü.flac").unlink()
    lines = (folder / "test.wrd").read_text().splitlines()
    (folder / "test.wrd").write_text("".join(f"{x}\n" for x in [*lines[:-1], "?!"]))
    (tmp_path / "c" / "ru-read" / "test.wrd").unlink()

    assert run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50) == 0

    err = capsys.readouterr().err

    assert f"left out (missing): {folder}/audio/00 ü.flac" in err
    assert f"left out (no text): {folder}/test.wrd:12" in err
    assert "left out: ru-read:" in err
    assert "2 of 33 utterances left out: 1 missing, 1 no text." in err

    left_out = load(tmp_path / "out")["left_out"]

    assert left_out["num_by_reason"] == {"missing": 1, "no text": 1}
    assert [u["id"] for u in left_out["utterances"]] == ["audio/00 ü.flac", "audio/11 ü.flac"]
    assert list(left_out["sources"]) == ["ru-read"]


def test_model_that_gives_blanks_only_is_called_so(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)

    run(tmp_path / "c", "--bootstrap", 50)
    assert "blanks only" not in capsys.readouterr().out

    emit = SpelledRecognizer.emit
    monkeypatch.setattr(
        SpelledRecognizer, "emit", lambda self, waveforms: emit(self, [0 * w for w in waveforms])
    )

    assert run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50) == 0
    assert "the model gives blanks only" in capsys.readouterr().out

    micro = load(tmp_path / "out")["micro"]

    assert micro["empty_share"] == 1.0
    assert micro["wer"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_comparison_reads_the_other_summary(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make_spelled_corpus(tmp_path / "c")

    run(tmp_path / "c", "--out", tmp_path / "one", "--bootstrap", 50)
    capsys.readouterr()

    other = tmp_path / "one" / "summary.json"
    assert run(tmp_path / "c", "--out", tmp_path / "two", "--compare", other) == 0

    assert f"Against {other}, on 42 common utterances (0 left out)" in capsys.readouterr().out

    comparison = load(tmp_path / "two")["comparison"]

    assert comparison["cer"]["macro_languages"]["difference"] == 0.0
    assert comparison["other"] == str(other)


def test_weights_of_a_search_are_chosen_on_another_split(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")

    planted = make_spelled_corpus(tmp_path / "c", num_utterances=5)
    for file in (tmp_path / "c").glob("*/test.*"):
        file.with_stem("valid").write_bytes(file.read_bytes())

    words = sorted({word for p in planted for word in p.reference.split()})
    lm = write_ngram(tmp_path / "words.arpa", words)

    args = ["--lm", lm, "--beam-size", 10, "--tune-on", "valid", "--bootstrap", 20]

    assert run(tmp_path / "c", "--out", tmp_path / "tuned", *args) == 0

    output = capsys.readouterr().out
    assert "Chosen on 14 utterances of valid: `--lm-weight" in output
    assert "weights of the search, best first" in output

    assert run(tmp_path / "c", "--out", tmp_path / "greedy", "--bootstrap", 20) == 0

    summary = load(tmp_path / "tuned")
    best, greedy = summary["tuning"]["best"], summary["tuning"]["greedy"]

    # Both splits are the same here, so that the numbers are.
    assert summary["micro"]["wer"]["value"] == best["wer"] < greedy["wer"]
    assert load(tmp_path / "greedy")["micro"]["wer"]["value"] == greedy["wer"]
    assert f"lm_weight {best['lm_weight']:g}" in summary["decoding"]
    assert best["wer"] == min(trial["wer"] for trial in summary["tuning"]["trials"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seed", -1], "`--seed` must be at least 0"),
        (["--compare", "/nowhere/summary.json"], "summary.json: there is no such file"),
        (["--split", "dev"], "no source has the split `dev`"),
        (["--source", "en-raed"], "`en-read` is the closest"),
        (["--max-segment-s", 0.5], "`max_segment_s` must be at least 2"),
        (["--tune-on", "valid"], "`--tune-on` needs a language model"),
        (["--lm-weight", 1], "`--lm-weight` needs a language model"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, run: Run, args: list[object], message: str
) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)

    with pytest.raises(InputError, match=message):
        run(tmp_path / "c", *args)


def test_damaged_hypotheses_are_refused(tmp_path: Path, run: Run) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=5)
    run(tmp_path / "c", "--out", tmp_path / "out", "--bootstrap", 50)

    file = tmp_path / "out" / "hypotheses.tsv"
    lines = file.read_text().splitlines()

    file.write_text("".join(f"{x}\n" for x in [*lines[:-1], lines[-1].rpartition("\t")[0]]))
    with pytest.raises(InputError, match="a line is damaged"):
        read_hypotheses(file)

    file.write_text("ref\thyp\n")
    with pytest.raises(InputError, match="the columns must be"):
        read_hypotheses(file)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tune-on", "test"], "must name another split"),
        (["--tune-on", "valid", "--lm-weight", 1], "leave them out"),
    ],
)
def test_tuning_that_would_mislead_is_refused(
    tmp_path: Path, run: Run, args: list[object], message: str
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")

    make_spelled_corpus(tmp_path / "c", num_utterances=5)
    lm = write_ngram(tmp_path / "words.arpa", ["one", "two"])

    with pytest.raises(InputError, match=message):
        run(tmp_path / "c", "--lm", lm, *args)
