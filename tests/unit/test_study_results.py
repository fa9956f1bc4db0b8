"""What a study has come to is gathered by family and way of counting, and compared with each baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from small_studies import BASE

from eqssl_speech.decoding.error_rates import ErrorCounts
from eqssl_speech.report.hypotheses import write_hypotheses
from eqssl_speech.report.page.drawing import draw_differences, make_grid
from eqssl_speech.report.page.inputs import NamedStudy
from eqssl_speech.report.page.study_figures import draw_study
from eqssl_speech.study.planner import Planner
from eqssl_speech.study.results import write_results
from eqssl_speech.study.state import Attempt, StudyState
from eqssl_speech.study.study_file import Study, read_study
from eqssl_speech.study.tables import list_tables
from eqssl_speech.tasks.evaluate.scores import ScoredUtterance


class FinishedStudy:
    """A study of HuBERT whose jobs are done by writing what they would."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        content = {
            "sources": ["a"],
            "pretraining": {"hubert": {"config": "w.yaml", "labels": []}},
            "regimes": {"plain": {"settings": {"equilibrium": None}}, "last-1": {}},
            **changes,
        }
        yaml = YAML(typ="safe", pure=True)
        yaml.dump(content, directory / "study.yaml")
        yaml.dump(BASE, directory / "w.yaml")

        self.study: Study = read_study(directory / "study.yaml")
        self.out = directory / "out"
        self.out.mkdir()
        self.planner = Planner(self.study, directory, directory / "corpus", self.out)
        self.state = StudyState(directory, directory / "corpus", self.out)
        self.jobs = {job.name: job for job in self.planner.list_jobs()}

    def finish(self, name: str, files: dict[str, Any]) -> None:
        job = self.jobs[name]

        for file, content in files.items():
            path = self.out / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = content if isinstance(content, list) else [content]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))

        self.state.find(name, "log").parent.mkdir(parents=True, exist_ok=True)
        self.state.begin(job, ["anything"])
        self.state.add_attempt(job, Attempt(commit=None, status=0, wall_s=60.0))
        self.state.finish(job, 0)

    def pretrain(self, cell: str, loss: float) -> None:
        row = {"Step": 300, "plain_loss": loss}
        self.finish(f"pretrain/{cell}", {f"metrics/{s}.jsonl": row for s in ("train", "valid")})

    def recognize(self, cell: str, source: str, losses: list[float], cer: float) -> None:
        """Fine-tune and test, on one utterance of ten letters."""
        # Below 90 percent in the first validation, by chance.
        rows = [
            {"Step": i + 1, "ctc_loss": x, "macro_cer": 85.0 if i in (0, 2) else 100.0}
            for i, x in enumerate(losses)
        ]
        self.finish(f"finetune/{cell}/few/{source}", {"metrics/valid.jsonl": rows})

        name = f"test/{cell}/few/{source}"
        num_errors = round(10 * cer)
        utterance = ScoredUtterance(
            "1",
            source,
            1.0,
            "a" * 10,
            "a" * (10 - num_errors),
            words=ErrorCounts(substitutions=1),
            chars=ErrorCounts(deletions=num_errors, hits=10 - num_errors),
        )
        (self.out / name).mkdir(parents=True)
        write_hypotheses([utterance], self.out / name)
        self.finish(name, {})

    def gather(self) -> dict[str, Any]:
        return write_results(self.study, self.planner, self.state, self.out)


def test_a_way_of_counting_is_there_once_it_says_something_else(tmp_path: Path) -> None:
    cells = {"families": ["hubert"], "seeds": [1]}
    study = FinishedStudy(
        tmp_path,
        cells=[
            {**cells, "regimes": ["plain", "last-1"]},
            {**cells, "regimes": ["last-1"], "counting": "updates"},
        ],
    )
    found = {}

    for name in ("plain/audio", "last-1/audio", "last-1/updates"):
        study.pretrain(f"hubert/{name}/seed-1", 4.0)
        groups = study.gather()["groups"]
        found[name] = {group["counting"]: set(group["pretraining"]) for group in groups}

    assert found == {
        "plain/audio": {"audio": {"plain"}},
        "last-1/audio": {"audio": {"plain", "last-1"}},
        "last-1/updates": {"audio": {"plain", "last-1"}, "updates": {"plain", "last-1"}},
    }


def test_each_regime_is_compared_with_each_baseline(tmp_path: Path) -> None:
    study = FinishedStudy(
        tmp_path,
        regimes={
            "plain": {"settings": {"equilibrium": None}},
            "mixed": {"settings": {"equilibrium": None, "dataset.regime": "mixed"}},
            "last-1": {},
        },
        baselines=["plain", "mixed"],
        adaptation={"seen": ["a"], "lrs": [0.01]},
        cells=[{"families": ["hubert"], "regimes": ["plain", "mixed", "last-1"], "seeds": [1, 2]}],
    )
    losses = {"plain": 4.5, "mixed": 4.25, "last-1": 4.0}

    for regime, loss in losses.items():
        for seed in (1, 2):
            study.pretrain(f"hubert/{regime}/audio/seed-{seed}", loss)
            study.finish(
                f"adapt/hubert/{regime}/audio/seed-{seed}/seen/lr=0.01",
                {
                    "adaptation.json": {
                        "version": 1,
                        "sources": {"a": {"losses": [loss, loss - 0.5 * (regime == "last-1")]}},
                    }
                },
            )

    results = study.gather()
    (group,) = results["groups"]

    for regime, loss in losses.items():
        others = {b: loss - losses[b] for b in ("plain", "mixed") if b != regime}
        differences = group["pretraining"][regime]["plain_loss_difference"]
        assert {b: d["value"] for b, d in differences.items()} == pytest.approx(others)

    adapted = group["adaptation"]["last-1"]["0.01"]
    assert [d["mixed"]["value"] for d in adapted["seen_difference"]] == [-0.25, -0.75]
    assert [d["mixed"]["value"] for d in adapted["seen_gain_difference"]] == [0.0, 0.5]

    tables = {table.title: table for table in list_tables(results)}
    where = "hubert, equal audio per update"
    gain = tables[
        f"Adaptation with steps of 0.01, gain (loss before less loss after) against mixed: {where}"
    ]
    assert list(gain.head) == ["regime", "seeds", "seen 1"]
    assert [row[0] for row in gain.rows] == ["plain", "last-1"]
    assert gain.rows[1][2].startswith("+0.500 (")

    pictures = {picture.title: picture for picture in draw_study(NamedStudy("s", results))}
    assert set(pictures) == {
        f"s: adaptation with steps of 0.01{against}: {where}"
        for against in ("", ", against plain", ", against mixed")
    }
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures.values())

    pretraining = tables[f"Pre-training: {where}"]
    assert [row[3:5] for row in pretraining.rows] == [
        ["", "+0.250 (+0.250 to +0.250)"],
        ["-0.250 (-0.250 to -0.250)", ""],
        ["-0.500 (-0.500 to -0.500)", "-0.250 (-0.250 to -0.250)"],
    ]


def adapt(study: FinishedStudy, regime: str, group: str, losses: list[float]) -> None:
    study.finish(
        f"adapt/hubert/{regime}/audio/seed-1/{group}/lr=0.01",
        {"adaptation.json": {"version": 1, "sources": {"a": {"losses": losses}}}},
    )


def test_a_picture_of_differences_is_there_once_there_are_some(tmp_path: Path) -> None:
    study = FinishedStudy(
        tmp_path,
        baselines=["plain"],
        adaptation={"seen": ["a"], "unseen": ["b"], "lrs": [0.01]},
        cells=[{"families": ["hubert"], "regimes": ["plain", "last-1"], "seeds": [1]}],
    )

    def list_pictures() -> list[str]:
        return [picture.title for picture in draw_study(NamedStudy("s", study.gather()))]

    curves = "s: adaptation with steps of 0.01: hubert, equal audio per update"

    study.pretrain("hubert/plain/audio/seed-1", 4.0)
    adapt(study, "plain", "seen", [4.0, 3.0])
    assert list_pictures() == [curves]

    # Of a scope that only one of the two has, there is none.
    adapt(study, "plain", "unseen", [4.0, 3.0])
    adapt(study, "last-1", "seen", [4.0, 3.0])
    assert list_pictures() == [curves, curves.replace("0.01", "0.01, against plain")]


def test_tuning_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    study = FinishedStudy(
        tmp_path,
        tuning={"values": {"optimizer.config.lr": [0.001, 0.01]}},
        cells=[{"families": ["hubert"], "regimes": ["plain"], "seeds": [1]}],
    )

    def tune(value: float, losses: dict[str, float]) -> list[Any]:
        row = {"Step": 300, **losses}
        study.finish(f"tune/hubert/plain/optimizer.config.lr={value}", {"metrics/valid.jsonl": row})

        return [list(t.rows[0][3:]) for t in list_tables(study.gather()) if t.title == "Tuning"]

    assert study.gather()["tuning"] == []
    assert tune(0.001, {}) == [["0.001: -", ""]]
    assert tune(0.01, {}) == [["0.001: -, 0.01: -", ""]]
    assert tune(0.01, {"plain_loss": 4.0}) == [["0.001: -, 0.01: 4.000", "0.01"]]


def test_a_family_of_which_nothing_is_done_is_left_out(tmp_path: Path) -> None:
    families = ["hubert", "other"]
    study = FinishedStudy(
        tmp_path,
        pretraining={name: {"config": "w.yaml", "labels": []} for name in families},
        regimes={"plain": {"settings": {"equilibrium": None}}, "random": {"is_random": True}},
        finetuning={"config": "w.yaml", "seen": ["a"], "labels": {"few": {}}},
        cells=[
            {"families": families, "regimes": ["plain"], "seeds": [1]},
            {"families": ["hubert"], "regimes": ["random"], "seeds": [1], "labels": ["few"]},
        ],
    )
    study.recognize("hubert/random/audio/seed-1", "a", [2.0], cer=0.5)

    (group,) = study.gather()["groups"]
    assert group["family"] == "hubert"


def test_recognisers_are_compared_by_error_rate_and_by_loss(tmp_path: Path) -> None:
    seeds = [1, 2, 3]
    study = FinishedStudy(
        tmp_path,
        baselines=["plain"],
        finetuning={"config": "w.yaml", "seen": ["a"], "unseen": ["b"], "labels": {"few": {}}},
        cells=[
            {
                "families": ["hubert"],
                "regimes": ["plain", "last-1"],
                "seeds": seeds,
                "labels": ["few"],
            }
        ],
    )

    places = [(seed, *place) for seed in seeds for place in (("a", 2.0), ("b", 3.0))]

    for seed in seeds:
        study.pretrain(f"hubert/last-1/audio/seed-{seed}", 4.0)

    # Of the third seed, the second source is not done yet.
    for seed, source, loss in places[:-1]:
        study.recognize(f"hubert/last-1/audio/seed-{seed}", source, [loss - 0.25 * seed], cer=0.4)

    rates_title = "s: CER, few: hubert, equal audio per update"
    assert [p.title for p in draw_study(NamedStudy("s", study.gather()))] == [rates_title]

    for seed, source, loss in places:
        losses = [loss + 0.5, loss, loss + 0.25]
        study.recognize(f"hubert/plain/audio/seed-{seed}", source, losses, cer=0.5)

    results = study.gather()
    (group,) = results["groups"]
    rows = group["finetuning"]["few"]["regimes"]

    assert rows["plain"]["ctc_loss"]["all"]["mean"] == 2.5
    assert rows["plain"]["worst_cer"] == 0.5
    assert rows["last-1"]["ctc_loss"]["a"]["mean"] == 1.5
    assert rows["last-1"]["goals"]["90"] == {"reached": 5, "of": 5, "mean_step": 1}
    assert rows["plain"]["goals"]["90"] == {"reached": 6, "of": 6, "mean_step": 3}
    assert rows["plain"]["goals"]["80"] == {"reached": 0, "of": 6, "mean_step": None}

    differences = rows["last-1"]["ctc_loss_difference"]["plain"]
    rates = rows["last-1"]["cer_difference"]["plain"]
    assert {s: (x["value"], x["num_seeds"]) for s, x in differences.items()} == {
        **dict.fromkeys(("a", "seen"), (-0.5, 3)),
        **dict.fromkeys(("b", "unseen", "all"), (-0.375, 2)),
    }
    assert differences["a"]["low"] == pytest.approx(-0.5 - 4.303 * 0.25 / 3**0.5, abs=1e-3)
    assert {s: x["value"] for s, x in rates.items()} == pytest.approx(
        dict.fromkeys(differences, -0.1)
    )
    assert "plain" not in rows["plain"]["ctc_loss_difference"]

    tables = {table.title: table for table in list_tables(results)}
    where = "few: hubert, equal audio per update"
    assert tables[f"CTC loss, {where}"].rows[0] == [
        "plain",
        "3",
        *(f"{x:.3f} ± 0.000" for x in (2.0, 3.0, 2.0, 3.0, 2.5)),
    ]
    (row,) = tables[f"CTC loss against plain, {where}"].rows
    assert row[:3] == ["last-1", "2-3", "-0.500 (-1.121 to +0.121)"]

    assert [p.title for p in draw_study(NamedStudy("s", results))] == [
        rates_title,
        "s: CTC loss, few, against plain: hubert, equal audio per update",
    ]


def test_differences_are_drawn_where_they_are() -> None:
    _, (axes,) = make_grid(1)
    draw_differences(
        axes, ["x", "y"], {"few": [(-0.5, (-0.75, 0.25)), None], "many": [None, (0.25, None)]}
    )

    few, many = axes.containers
    marker, _, (whiskers,) = few.lines
    assert marker.get_ydata().tolist() == [-0.5]
    assert [line[:, 1].tolist() for line in whiskers.get_segments()] == [[-0.75, 0.25]]

    marker, _, (whiskers,) = many.lines
    # Of the second group, and without whiskers.
    assert round(float(marker.get_xdata()[0])) == 1
    assert [line[:, 1].tolist() for line in whiskers.get_segments()] == [[0.25, 0.25]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"]
