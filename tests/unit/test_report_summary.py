"""From hand-made JSON lines to summary.json, the table, the picture and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eqssl_speech.error import InputError
from eqssl_speech.report import find_runs, read_run, summarize, write_summary
from eqssl_speech.report.__main__ import main
from eqssl_speech.report.summary import Summary
from eqssl_speech.report.table import build_tables, describe_troubles, verdict

CHANCE = math.log2(51)

FINAL_LOSSES = {"ru-festvox": 4.25, "cs-fillets": 4.75, "en-asterisk": 5.0}


def append(file: Path, **values: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)

    with file.open("a", encoding="utf-8") as fp:
        fp.write(json.dumps({"Time": "2026-11-21T00:00:00+00:00", **values}) + "\n")


def make_run(
    directory: Path, losses: dict[str, float], *, adapted: bool = True, mixed: bool = False
) -> None:
    """Write the metrics of a run whose losses fall from chance to `losses` in 400 steps."""
    for nr, (source, final) in enumerate(losses.items(), start=1):
        for step in (100, 200, 300, 400):
            loss = CHANCE + (final - CHANCE) * step / 400

            values: dict[str, object] = {
                "plain_loss": loss,
                "accuracy": 0.1 * nr,
                "code_perplexity": 40.0,
                "prob_perplexity": 60.0,
                "code_share": 0.25,
                "chance": CHANCE,
            }
            if adapted:
                values |= {"adapted_loss": loss - 0.01 * nr, "adaptation_gain": 0.01 * nr}

            append(directory / "metrics" / "valid" / f"{source}.jsonl", Step=step, **values)

            seen = {"audio_seconds": 9.0 * nr * step, "utterances": 2 * nr * step}

            name = "mixed" if mixed else source

            append(directory / "metrics" / "train" / f"{name}.jsonl", Step=step, **seen)


def read_summary(out: Path) -> Summary:
    return summarize([read_run(name, directory) for name, directory in find_runs(out)])


def read_json(out: Path) -> dict[str, Any]:
    write_summary(read_summary(out), out)

    content: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))

    return content


def test_summary_has_last_validation_per_source_with_audio_seen(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)

    summary = read_json(tmp_path)

    source = summary["sources"]["cs-fillets"]

    assert source["plain_loss"] == pytest.approx(4.75)
    assert source["chance"] == pytest.approx(CHANCE)
    assert source["below_chance"] == pytest.approx(CHANCE - 4.75)
    assert source["adaptation_gain"] == pytest.approx(0.02)
    assert source["adapted_loss"] == pytest.approx(4.73)
    assert source["hours"] == pytest.approx(2.0)
    assert source["utterances"] == 1600
    assert summary["runs"]["equilibrium"]["step"] == 400
    assert summary["runs"]["equilibrium"]["sources"] == summary["sources"]
    assert summary["main_run"] == "equilibrium"
    assert "comparison" not in summary


def test_macro_is_the_mean_of_measures_and_the_total_of_audio(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)

    summary = read_json(tmp_path)

    macro = summary["macro"]

    assert macro["plain_loss"] == pytest.approx(14 / 3)
    assert macro["accuracy"] == pytest.approx(0.2)
    assert macro["hours"] == pytest.approx(6.0)
    assert macro["utterances"] == 4800
    assert summary["worst"]["source"] == "en-asterisk"
    assert summary["worst"]["plain_loss"] == pytest.approx(5.0)


def test_step_is_the_last_at_which_every_source_was_validated(tmp_path: Path) -> None:
    run = tmp_path / "equilibrium"

    make_run(run, FINAL_LOSSES)

    append(run / "metrics" / "valid" / "ru-festvox.jsonl", Step=500, plain_loss=1.0, chance=CHANCE)

    summary = read_json(tmp_path)

    assert summary["runs"]["equilibrium"]["step"] == 400
    assert summary["sources"]["ru-festvox"]["plain_loss"] == pytest.approx(4.25)


def test_no_step_in_common_is_an_input_error(tmp_path: Path) -> None:
    valid = tmp_path / "equilibrium" / "metrics" / "valid"

    append(valid / "a.jsonl", Step=1, plain_loss=1.0)
    append(valid / "b.jsonl", Step=2, plain_loss=1.0)

    with pytest.raises(InputError, match="no step at which every source was validated"):
        read_summary(tmp_path)


def test_validation_without_plain_loss_is_an_input_error(tmp_path: Path) -> None:
    append(tmp_path / "equilibrium" / "metrics" / "valid" / "a.jsonl", Step=1, ctc_loss=1.0)

    with pytest.raises(InputError, match=r"a\.jsonl has no `plain_loss` at step 1"):
        read_summary(tmp_path)


def test_mixed_regime_has_audio_in_macro_only_and_no_gain(tmp_path: Path) -> None:
    make_run(tmp_path / "conventional", {"ru": 4.0}, adapted=False, mixed=True)

    summary = read_json(tmp_path)

    assert summary["main_run"] == "conventional"
    assert summary["sources"]["ru"]["hours"] is None
    assert summary["sources"]["ru"]["adaptation_gain"] is None
    assert summary["macro"]["adaptation_gain"] is None
    assert summary["macro"]["hours"] == pytest.approx(1.0)
    assert summary["macro"]["utterances"] == 800


def test_loss_that_is_not_finite_is_null_worst_and_not_averaged_away(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES | {"nl-fillets": math.nan})
    make_run(tmp_path / "conventional", FINAL_LOSSES | {"nl-fillets": 4.0})

    summary = read_json(tmp_path)

    assert summary["sources"]["nl-fillets"]["plain_loss"] is None
    assert summary["macro"]["plain_loss"] is None
    assert summary["worst"] == {"source": "nl-fillets", "plain_loss": None}
    assert "cannot be compared" in (verdict(read_summary(tmp_path)) or "")


def test_what_went_wrong_in_training_is_counted_and_told(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)
    make_run(tmp_path / "mixed", FINAL_LOSSES, adapted=False, mixed=True)

    train = tmp_path / "equilibrium" / "metrics" / "train"
    append(train / "ru-festvox.jsonl", Step=500, non_finite=2, exploded=3)
    append(train / "en-asterisk.jsonl", Step=500, dead=4, bad_recordings=5)
    append(tmp_path / "mixed" / "metrics" / "train" / "mixed.jsonl", Step=500, non_finite=7)

    summary = read_json(tmp_path)
    names = ("non_finite", "exploded", "dead", "bad_recordings")

    def counts(measures: dict[str, Any]) -> list[int]:
        return [measures[name] for name in names]

    assert counts(summary["sources"]["ru-festvox"]) == [2, 3, 0, 0]
    assert counts(summary["sources"]["cs-fillets"]) == [0, 0, 0, 0]
    assert counts(summary["macro"]) == [2, 3, 4, 5]

    assert describe_troubles(read_summary(tmp_path)) == [
        "equilibrium, en-asterisk: episodes that contributed nothing: 4 of which nothing could be read; recordings "
        "that could not be read: 5.",
        "equilibrium, ru-festvox: episodes that contributed nothing: 2 with a number that is not finite, 3 whose inner "
        "steps exploded.",
        "mixed, all sources: episodes that contributed nothing: 7 with a number that is not finite.",
    ]


def test_comparison_is_equilibrium_minus_conventional(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)
    make_run(tmp_path / "conventional", FINAL_LOSSES | {"ru-festvox": 4.35, "en-asterisk": 4.98})

    comparison = read_json(tmp_path)["comparison"]

    assert comparison["sources"]["ru-festvox"] == pytest.approx(-0.1)
    assert comparison["sources"]["en-asterisk"] == pytest.approx(0.02)
    assert comparison["macro_plain_loss_difference"] == pytest.approx(-0.08 / 3)
    assert comparison["hours_ratio"] == pytest.approx(1.0)

    sentence = verdict(read_summary(tmp_path)) or ""

    assert "0.027 bits below conventional's and lower for 1 of them" in sentence
    assert "after 400 and 400 updates and 1.00 times the hours" in sentence


def test_summary_is_the_same_bytes_twice_and_leaves_no_scratch_file(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)

    (first, second) = (
        write_summary(read_summary(tmp_path), tmp_path).read_bytes() for _ in range(2)
    )

    assert first == second
    assert sorted(f.name for f in tmp_path.iterdir()) == ["equilibrium", "summary.json"]


def test_table_has_a_row_per_source_macro_and_worst(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)

    sources = [{"name": s, "language": s[:2], "domain": "[speech]"} for s in FINAL_LOSSES]

    (tmp_path / "equilibrium" / "sources.json").write_text(json.dumps(sources))

    console = Console(width=140, record=True)
    with console.capture() as capture:
        console.print(*build_tables(read_summary(tmp_path)))

    lines = capture.get().splitlines()

    row = next(line.split() for line in lines if "cs-fillets" in line)

    assert row[:3] == ["cs-fillets", "cs,", "[speech]"]
    assert row[3:7] == ["4.750", "0.922", "4.730", "+0.020"]
    assert row[7:] == ["20.0", "25.0", "2.00", "1,600"]
    assert any("macro average" in line and "4.667" in line for line in lines)
    assert any("worst: en-asterisk" in line and "5.000" in line for line in lines)
    assert "chance is 5.672" in lines[0]


def test_command_writes_summary_and_picture_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)
    make_run(tmp_path / "conventional", FINAL_LOSSES, adapted=False)

    assert main([str(tmp_path)]) == 0

    output = capsys.readouterr().out

    assert "ru-festvox" in output
    assert "Equilibrium's loss at theta" in output

    picture = (tmp_path / "summary.png").read_bytes()

    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def test_command_reports_only_the_runs_named(tmp_path: Path) -> None:
    make_run(tmp_path / "equilibrium", FINAL_LOSSES)
    make_run(tmp_path / "conventional", FINAL_LOSSES)

    assert main([str(tmp_path), "--run", "conventional"]) == 0

    assert list(json.loads((tmp_path / "summary.json").read_text())["runs"]) == ["conventional"]


def test_command_ends_with_two_and_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2

    error = capsys.readouterr().err

    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_style_of_a_line_differs_without_its_colour() -> None:
    from eqssl_speech.report.picture import make_styles

    assert len({style[1:] for style in make_styles(32)}) == 32
