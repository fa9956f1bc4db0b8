"""A study lists its jobs from one file, with what each regime is trained with."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from fairseq2.utils.argparse import ConfigAction
from fairseq2.utils.config import StandardConfigMerger
from fairseq2.utils.structured import StandardValueConverter
from fairseq2.utils.validation import StandardObjectValidator
from ruamel.yaml import YAML
from small_studies import BASE, TUNING, make_planner, write_loss, write_study

from eqssl_speech.error import InputError
from eqssl_speech.study.cells import Cell, SettingsMaker
from eqssl_speech.study.planner import Planner
from eqssl_speech.study.study_file import read_study, require_sources
from eqssl_speech.tasks.pretrain.config import PretrainConfig

_UNTRAINED = ("start", "random")

RECIPE = Path(__file__).parents[2] / "recipes" / "equilibrium_study" / "study.yaml"


def test_the_recipe_is_a_study() -> None:
    study = read_study(RECIPE)
    planner = Planner(
        study, RECIPE.parent, RECIPE.parents[1] / "quickstart" / "corpus", Path("out")
    )

    # The least of it comes first: both families, the start and six regimes, three seeds.
    first = [planned.cell for planned in planner.list_cells()[: 2 * 7 * 3]]
    assert {c.family for c in first} == {"hubert", "wav2vec2"}
    assert {c.seed for c in first} == {1, 2, 3}
    assert {c.counting for c in first} == {"audio"}
    assert len({c.regime for c in first}) == 7

    # What needs no text, of all seeds, comes before the recognisers.
    names = [job.name for job in planner.list_jobs()]
    finetuning = names.index("finetune/hubert/start/audio/seed-1/10 minutes/ru-festvox")
    assert [n for n in names[:finetuning] if n.startswith("pretrain/hubert/")] == [
        f"pretrain/{c.name}" for c in first if c.family == "hubert" and c.regime not in _UNTRAINED
    ]

    # Nothing is tried that no cell has, and no regime is defined for nothing.
    assert {p.cell.regime for p in planner.list_cells()} == set(study.regimes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cells": []}, "`cells` is empty"),
        ({"baselines": ["best"]}, "`baselines` names `best`, which `regimes` does not define"),
        ({"sources": ["a", "c"]}, "`c` is listed as unseen, but `sources` names it"),
        ({"colour": 1}, "there is no `colour`; the file can have sources, pretraining, "),
        (
            {"regimes": {"plain": {"setings": {}}}},
            "there is no `regimes.plain.setings`; `regimes.plain` can have settings, is_random, ",
        ),
        ({"pretraining": {"hubert": {}}}, "`pretraining.hubert.config` is missing; add it"),
        ({"sources": "ru"}, "`sources` is `ru`, but must be a list"),
        (
            {"adaptation": {"seen": ["a"], "arguments": ["--steps", 20]}},
            r"`adaptation.arguments\[1\]` is `20`, but must be text; put it in quotes",
        ),
        ({"tuning": {"num_steps": {"x": 0.5}}}, "`tuning.num_steps.x` is `0.5`, but must be a who"),
        (
            {"tuning": TUNING | {"num_steps": {"optimizer.config.lr": -1}}},
            "`tuning.num_steps.optimizer.config.lr` is -1; give 1 or more",
        ),
        ({"tuning": {"values": {"x": []}}}, "`tuning.values.x` is empty; list at least one"),
        ({"regimes": None}, "`regimes` is empty, but must be a section with keys of its own"),
        (
            {"cells": [{"families": ["hubert"], "regimes": ["plain"], "seeds": [1.5]}]},
            r"`cells\[0\].seeds\[0\]` is `1.5`, but must be a whole number",
        ),
        (
            {"cells": [{"families": ["hubert"], "regimes": ["plain"], "seeds": []}]},
            r"`cells\[0\].seeds` is empty; list at least one",
        ),
        ({"pretraining": {"hubert": {"config": "x.yaml"}}}, "there is no file `.*x.yaml`"),
        (
            {"cells": [{"families": ["hubert"], "regimes": ["plain"], "seeds": [1000]}]},
            "has 1000, the seed of `tuning`",
        ),
        (
            {
                "regimes": {"start": {"is_start": True}},
                "cells": [{"families": ["hubert"], "regimes": ["start"], "seeds": [1]}],
            },
            r"`cells\[0\].regimes` names `start`, which is the start, but `hubert` has none",
        ),
        (
            {
                "regimes": {"random": {"is_random": True, "settings": {"dataset.regime": "mixed"}}},
                "cells": [{"families": ["hubert"], "regimes": ["random"], "seeds": [1]}],
            },
            "`random`, which is not pre-trained by itself; leave out its `settings`",
        ),
        (
            {
                "cells": [
                    {"families": ["hubert"], "regimes": ["plain"], "seeds": [1], "counting": "x"}
                ]
            },
            r"`cells\[0\].counting` is `x`, but must be one of audio, updates, gradients",
        ),
        (
            {
                "cells": [
                    {"families": ["hubert"], "regimes": ["plain"], "seeds": [1], "labels": ["all"]}
                ]
            },
            r"`cells\[0\].labels` names `all`, which `finetuning.labels` does not define \(it has few\)",
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, changes: Any, error: str) -> None:
    with pytest.raises(InputError, match=error):
        read_study(write_study(tmp_path, **changes))


def make_maker(directory: Path, **changes: Any) -> SettingsMaker:
    return SettingsMaker(read_study(write_study(directory, **changes)), directory)


def test_regimes_are_counted_in_three_ways(tmp_path: Path) -> None:
    maker = make_maker(tmp_path)

    assert "dataset.audio_seconds_per_update" not in maker.make("hubert", "last-3", "audio")

    by_updates = maker.make("hubert", "last-3", "updates")
    assert by_updates["dataset.audio_seconds_per_update"] == 4 * 48
    assert "regime.num_steps" not in by_updates

    by_gradients = maker.make("hubert", "last-3", "gradients")
    assert by_gradients["dataset.audio_seconds_per_update"] == 4 * 48
    assert by_gradients["regime.num_steps"] == 75
    assert by_gradients["lr_scheduler.config.num_warmup_steps"] == 1
    assert by_gradients["equilibrium.start_after_num_steps"] == 10
    # The last update is validated, and all are multiples of what is published.
    assert by_gradients["regime.validate_every_n_steps"] == 75
    assert by_gradients["regime.publish_metrics_every_n_steps"] == 3
    assert by_gradients["regime.checkpoint_every_n_steps"] == 12

    # The host refuses numbers of these that do not fit the others.
    kept = {"regime.keep_best_n_checkpoints": 2, "regime.keep_checkpoint_every_n_steps": 50}
    by_gradients = make_maker(tmp_path, settings=kept).make("hubert", "last-3", "gradients")
    assert [by_gradients[name] for name in kept] == [None, None]

    assert maker.make("hubert", "plain", "gradients") == maker.make("hubert", "plain", "audio")

    with pytest.raises(InputError, match=r"`regime.num_steps` is not a whole number"):
        make_maker(tmp_path, settings={"regime.num_steps": "many"}).make(
            "hubert", "last-3", "gradients"
        )


@pytest.mark.parametrize(
    ("settings", "own", "expected"),
    [
        ({}, {}, 1),
        ({}, {"equilibrium": None}, 0),
        ({"equilibrium": None}, {}, 0),
        ({}, {"equilibrium.num_inner_steps": 5}, 5),
        ({"equilibrium.num_inner_steps": 2}, {}, 2),
        ({"equilibrium.num_inner_steps": 2}, {"equilibrium.num_inner_steps": 3}, 3),
        ({}, {"equilibrium": {"num_inner_steps": 4}}, 4),
        ({}, {"equilibrium.num_inner_steps": 0}, 0),
    ],
)
def test_the_number_of_inner_steps_is_found_wherever_it_is_set(
    tmp_path: Path, settings: Any, own: Any, expected: int
) -> None:
    maker = make_maker(
        tmp_path,
        settings=settings,
        regimes={"plain": {"settings": own}, "last-3": {}, "random": {}},
    )

    assert maker.num_inner_steps("hubert", "plain") == expected


def test_cells_come_once_whatever_names_them(tmp_path: Path) -> None:
    cells = [
        {"families": ["hubert"], "regimes": ["plain"], "seeds": [1], "adapt": False},
        {
            "families": ["hubert"],
            "regimes": ["plain", "last-3"],
            "seeds": [1],
            "counting": "updates",
            "labels": ["few"],
        },
    ]
    plain, last = make_planner(tmp_path, cells=cells).list_cells()

    assert plain.cell == Cell("hubert", "plain", "audio", 1)
    assert (plain.labels, plain.adapt) == (("few",), True)
    assert last.cell == Cell("hubert", "last-3", "updates", 1)


def test_jobs_come_after_those_that_they_need(tmp_path: Path) -> None:
    jobs = make_planner(tmp_path).list_jobs()
    names = [job.name for job in jobs]

    for index, job in enumerate(jobs):
        assert {*job.needs, *job.after} <= set(names[:index]), job.name

    assert len(set(names)) == len(names)
    assert "pretrain/hubert/random/audio/seed-1" not in names
    assert "finetune/hubert/random/audio/seed-1/few/c" in names

    (labels,) = (job for job in jobs if job.name == "labels/hubert/unseen")
    command = labels.make_command()
    # Clusters of what is pre-trained on only.
    assert command[command.index("--codebook") + 1].endswith("labels/hubert/seen")
    assert command[command.index("--source") + 1] == "c"


def test_what_is_named_first_is_run_first(tmp_path: Path) -> None:
    cells = [
        {"families": ["hubert"], "regimes": ["plain"], "seeds": [1, 2]},
        {"families": ["hubert"], "regimes": ["plain"], "seeds": [1], "labels": ["few"]},
    ]
    names = [job.name for job in make_planner(tmp_path, cells=cells).list_jobs()]

    # The fine-tuning is of the second list, though its cell is the first.
    second = names.index("pretrain/hubert/plain/audio/seed-2")
    assert second < names.index("finetune/hubert/plain/audio/seed-1/few/a")


def test_all_regimes_of_a_seed_go_on_from_one_start(tmp_path: Path) -> None:
    start = {"equilibrium": None, "regime.num_steps": 20}
    pretraining = {"hubert": {"config": "w.yaml", "labels": [], "start": start}}
    planner = make_planner(tmp_path, pretraining=pretraining)
    jobs = {job.name: job for job in planner.list_jobs()}

    job = jobs["start/hubert/seed-1"]
    command = job.make_command()
    assert {"equilibrium=null", "regime.num_steps=20", "common.seed=1"} <= set(command)
    assert not [argument for argument in command if argument.startswith("pretrained=")]
    assert job.needs == ("labels/hubert/seen",)

    for regime in ("plain", "last-3"):
        for name, values in planner.list_tuned(regime).items():
            for value in values:
                step = TUNING["num_steps"].get(name, BASE["regime"]["num_steps"])
                write_loss(
                    tmp_path, f"tune/hubert/{regime}/{name}={value:g}", step=step, plain_loss=4.0
                )

        job = jobs[f"pretrain/hubert/{regime}/audio/seed-1"]
        command = job.make_command()
        assert f"pretrained={tmp_path / 'out/start/hubert/seed-1'}" in command
        assert "regime.num_steps=20" not in command
        assert "start/hubert/seed-1" in job.needs
        # What draws as the start did does not hear the same again.
        assert "common.seed=10001" in command

    # Tuning has a start of its own seed.
    job = jobs["tune/hubert/plain/optimizer.config.lr=0.001"]
    assert f"pretrained={tmp_path / 'out/start/hubert/seed-1000'}" in job.make_command()
    assert "start/hubert/seed-1000" in job.needs


def test_a_start_is_compared_with_what_goes_on_from_it(tmp_path: Path) -> None:
    cells = [{"families": ["hubert"], "regimes": ["start"], "seeds": [1], "labels": ["few"]}]
    regimes = {"start": {"is_start": True}}
    pretraining = {"hubert": {"config": "w.yaml", "labels": [], "start": {}}}
    changes = {"cells": cells, "regimes": regimes, "pretraining": pretraining}
    phones = {"source": "a", "layers": [2]}

    with pytest.raises(InputError, match=r"corpus/a: has no phone labels"):
        make_planner(tmp_path, **changes, phones=phones)

    (tmp_path / "corpus" / "a").mkdir(parents=True)
    (tmp_path / "corpus" / "a" / "train.phones.ctm").touch()
    planner = make_planner(tmp_path, **changes, phones=phones)
    jobs = {job.name: job for job in planner.list_jobs()}
    start = str(tmp_path / "out/start/hubert/seed-1")

    # Nothing is trained besides, nor tuned.
    assert not [name for name in jobs if name.startswith(("pretrain", "tune"))]
    finetune = jobs["finetune/hubert/start/audio/seed-1/few/a"].make_command()
    assert f"pretrained={start}" in finetune

    command = jobs["phones/hubert/start/audio/seed-1/layer-2"].make_command()
    assert command[command.index("--checkpoint") + 1] == start
    assert command[command.index("--layer") + 1] == "2"
    # Other phones are another result.
    assert [file.name for file in jobs["phones/hubert/start/audio/seed-1/layer-2"].files] == [
        "train.phones.ctm"
    ]


def read_settings(command: list[str], content: Any) -> Any:
    """Put the settings of a command into the content of a configuration file, as the host does."""
    parser = ArgumentParser()
    parser.add_argument("--config", action=ConfigAction)
    options = parser.parse_args(command[command.index("--config") :])

    for overrides in options.config:
        content = StandardConfigMerger().merge(content, overrides)

    return content


def test_the_commands_of_the_recipe_are_such_as_pre_training_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = read_study(RECIPE)
    planner = Planner(
        study, RECIPE.parent, RECIPE.parents[1] / "quickstart" / "corpus", Path("out")
    )
    first = lambda regime: {name: values[0] for name, values in planner.list_tuned(regime).items()}  # noqa: E731
    monkeypatch.setattr(planner, "choose", lambda family, regime, until=None: first(regime))
    num_read = 0

    for job in planner.list_jobs():
        if job.kind not in ("start", "tune", "pretrain"):
            continue

        family = job.name.split("/")[1]
        content = YAML(typ="safe", pure=True).load(RECIPE.parent / study.pretraining[family].config)
        content = read_settings(job.make_command(), content)
        config = StandardValueConverter().structure(content, PretrainConfig)
        StandardObjectValidator().validate(config)

        if job.kind == "pretrain":
            settings = study.regimes[job.name.split("/")[2]].settings
            assert (config.equilibrium is None) == ("equilibrium" in settings)
            assert config.dataset.sources == study.sources

        num_read += 1

    assert num_read > 200


def test_an_empty_section_is_refused(tmp_path: Path) -> None:
    maker = make_maker(tmp_path, settings={"dataset": {"audio": {}}})

    with pytest.raises(InputError, match=r"`dataset.audio` is an empty section; name its keys"):
        maker.make("hubert", "plain", "audio")


def test_a_section_stands_for_each_of_its_keys(tmp_path: Path) -> None:
    inner = {"equilibrium.inner_lr": [0.01, 0.1]}
    own = {"equilibrium": {"num_inner_steps": 4, "inner_lr": 0.5}, "regime": {"num_steps": 600}}
    planner = make_planner(
        tmp_path,
        settings={"equilibrium": None, "dataset": {"seed": 3}},
        regimes={"plain": {"settings": own, "tune": inner}},
        tuning={"num_steps": {"equilibrium.inner_lr": 100}},
        cells=[{"families": ["hubert"], "regimes": ["plain"], "seeds": [1]}],
    )
    jobs = {job.name: job for job in planner.list_jobs()}

    content = read_settings(jobs["tune/hubert/plain/equilibrium.inner_lr=0.1"].make_command(), BASE)
    assert content["equilibrium"] == {"num_inner_steps": 4, "inner_lr": 0.1}
    assert content["regime"]["num_steps"] == content["regime"]["validate_every_n_steps"] == 100
    assert content["dataset"]["sources"] == ["a", "b"]
    assert content["dataset"]["audio_seconds_per_update"] == 48
    assert content["dataset"]["seed"] == 3


def test_what_a_regime_does_not_have_is_not_tuned(tmp_path: Path) -> None:
    for name, error in (
        ("equilibrium.inner_lr", "to be tuned, but `plain` has no inner steps; tune it"),
        ("profilers.torch.skip_n_steps", "to be tuned, but `plain` has no `profilers`; tune it"),
    ):
        regimes = {"plain": {"settings": {"equilibrium": None, "profilers": None}}}
        cells = [{"families": ["hubert"], "regimes": ["plain"], "seeds": [1]}]
        planner = make_planner(
            tmp_path, tuning={"values": {name: [0.1]}}, regimes=regimes, cells=cells
        )

        with pytest.raises(InputError, match=error):
            planner.list_jobs()


def test_sources_that_the_corpus_does_not_have_are_named(tmp_path: Path) -> None:
    file = write_study(tmp_path)
    study, corpus = read_study(file), tmp_path / "corpus"

    with pytest.raises(InputError, match="corpus: there is no such corpus directory"):
        require_sources(file, study, corpus)

    for source in ("a", "b"):
        (corpus / source).mkdir(parents=True)
        (corpus / source / "train.tsv").touch()

    with pytest.raises(InputError, match=r"`finetuning` names `c`, which `.*corpus` does not"):
        require_sources(file, study, corpus)

    (corpus / "c").mkdir()
    (corpus / "c" / "train.tsv").touch()
    require_sources(file, study, corpus)
