"""Adaptation curves are those of gradient descent, are the same again, and leave the model as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_runs import SAMPLE, label_sample

from eqssl_speech.cli import main
from eqssl_speech.data.episodes import Episode
from eqssl_speech.error import InputError
from eqssl_speech.models.hubert.config import micro_config as micro_hubert_config
from eqssl_speech.models.opening import make_model
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.report.adaptation import read_adaptation
from eqssl_speech.tasks.adapt.adapt import AdaptationJob, AdaptationOptions
from eqssl_speech.tasks.pretrain.valid_readers import create_adaptation_reader

FEW = AdaptationOptions(num_steps=3, lr=0.05, seconds_per_batch=4.0, num_batches=2)


def save(directory: Path, family: Any = "wav2vec2", config: Any = None) -> Path:
    torch.manual_seed(1)
    torch.save(make_model(family, config or micro_config()).state_dict(), directory / "a.pt")

    return directory / "a.pt"


def make_job(file: Path, options: AdaptationOptions = FEW, **kwargs: Any) -> AdaptationJob:
    sources = kwargs.pop("sources", ["ru-festvox", "es-drascula"])

    return AdaptationJob(file, SAMPLE, sources, kwargs.pop("labels", None), options, **kwargs)


def read_episode(job: AdaptationJob, **kwargs: int) -> Episode:
    """Read what the first source of a job is adapted to and evaluated on."""
    (train, *_), (valid, *_) = job.sources.train, job.sources.valid

    reader = create_adaptation_reader(job._config, train, valid, job._loader, **kwargs)
    ((episode,),) = reader
    reader.close()

    return episode


def test_the_model_is_put_back_and_the_curve_comes_again(tmp_path: Path) -> None:
    job = make_job(save(tmp_path))
    before = {n: x.clone() for n, x in job._module.state_dict().items()}
    state = torch.get_rng_state()

    first, second = job.run(), job.run()

    assert first == second
    assert [curve.source for curve in first] == ["ru-festvox", "es-drascula"]
    assert all(torch.equal(x, before[n]) for n, x in job._module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)

    # A source is measured as if it were the only one.
    (alone,) = make_job(tmp_path / "a.pt", sources=["es-drascula"]).run()
    assert alone == first[1]


def test_a_curve_is_that_of_gradient_descent(tmp_path: Path) -> None:
    file = save(tmp_path)
    (curve,) = make_job(file, sources=["ru-festvox"]).run()
    # Steps of no length stay where they are.
    (still,) = make_job(file, replace(FEW, lr=1e-30), sources=["ru-festvox"]).run()
    # Fewer steps are a part of more of them.
    (fewer,) = make_job(file, replace(FEW, num_steps=2), sources=["ru-festvox"]).run()

    assert curve.chance == pytest.approx(math.log2(101))
    assert len(curve.losses) == 4
    assert len(set(curve.losses)) == 4
    assert len(set(still.losses)) == 1
    assert still.losses[0] == curve.losses[0]
    assert fewer.losses == curve.losses[:3]


def test_a_step_is_one_of_gradient_descent(tmp_path: Path) -> None:
    """Against a step by hand, on the same batches, masks and distractors."""
    job = make_job(save(tmp_path), replace(FEW, num_steps=1), sources=["ru-festvox"])
    (curve,) = job.run()

    episode = read_episode(job, num_steps=1, num_batches=2)
    step, *evaluate = episode.batches
    module = job._module.train()

    torch.manual_seed(1)
    loss = job._criterion(module, step).loss
    params = list(module.parameters())
    grads = torch.autograd.grad(loss, params, allow_unused=True)

    with torch.no_grad():
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                param -= FEW.lr * grad

        module.eval()
        torch.manual_seed(0)
        outputs = [job._criterion(module, batch) for batch in evaluate]

    total = sum(float(output.main_loss) * output.num_targets for output in outputs)
    num_targets = sum(output.num_targets for output in outputs)
    assert curve.num_targets == num_targets
    assert curve.losses[1] == pytest.approx(total / num_targets / math.log(2), rel=1e-6)


def test_recordings_of_all_lengths_are_evaluated(tmp_path: Path) -> None:
    job = make_job(save(tmp_path), replace(FEW, num_batches=3), sources=["ru-festvox"])
    episode = read_episode(job, num_steps=2, num_batches=3)

    lengths = [batch.seqs.shape[1] for batch in episode.batches[2:]]
    shortest = min(job.sources.valid[0].lengths)

    assert len(lengths) == 3
    assert lengths == sorted(lengths, reverse=True)
    # A batch is cut to its shortest recording.
    assert lengths[-1] == shortest


def test_a_step_that_diverges_is_infinite(tmp_path: Path) -> None:
    (curve,) = make_job(save(tmp_path), replace(FEW, lr=1e30), sources=["ru-festvox"]).run()

    assert math.isfinite(curve.losses[0])
    assert math.isinf(curve.losses[-1])
    assert curve.best_step == 0


def test_hubert_needs_labels(tmp_path: Path) -> None:
    file = save(tmp_path, "hubert", micro_hubert_config([8]))

    with pytest.raises(InputError, match="predicts labels; add `--labels DIR`"):
        make_job(file)

    labels = label_sample(tmp_path / "labels")
    curves = make_job(file, labels=labels).run()
    assert curves[0].chance == pytest.approx(3.0)

    with pytest.raises(InputError, match="predicts no labels; leave `--labels` out"):
        make_job(save(tmp_path), labels=labels)


def test_what_has_no_loss_is_refused(tmp_path: Path) -> None:
    tensors = torch.load(save(tmp_path))
    del tensors["final_proj.weight"]
    torch.save(tensors, tmp_path / "a.pt")

    with pytest.raises(
        InputError, match=r"has no tensor `final_proj\.weight`, without which it has"
    ):
        make_job(tmp_path / "a.pt")


def test_recordings_are_left_out_as_in_pre_training(tmp_path: Path) -> None:
    checkpoint = save(tmp_path)

    with pytest.raises(InputError, match=r"too short.*`dataset.max_bad_share` is 0.01"):
        make_job(checkpoint, recordings={"min_audio_s": 6.0, "max_bad_share": 0.01})

    few = make_job(checkpoint, recordings={"min_audio_s": 6.0, "max_bad_share": 0.99})
    assert few.sources.train[0].lengths.min() >= 6 * 16_000
    assert make_job(checkpoint).sources.train[0].lengths.min() < 6 * 16_000


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--min-audio-s", "-0.1"], "must be a number of at least 0"),
        (["--min-audio-s", "nan"], "must be a number of at least 0"),
        (["--max-bad-share", "1.5"], "must be a number from 0 to 1"),
        (["--max-bad-share", "few"], "must be a number from 0 to 1"),
    ],
)
@pytest.mark.parametrize("command", [["check", "x"], ["adapt", "x", "x"]])
def test_limits_are_refused_at_once(
    capsys: pytest.CaptureFixture[str], command: list[str], arguments: list[str], error: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*command, *arguments])

    assert error in capsys.readouterr().err


def test_the_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["adapt", str(save(tmp_path)), str(SAMPLE), "--source", "it-drascula"]
    command += ["--steps", "2", "--batches", "1", "--batch-seconds", "4", "--out"]

    assert main([*command, str(tmp_path / "out")]) == 0

    content = json.loads((tmp_path / "out" / "adaptation.json").read_text())
    losses = read_adaptation(tmp_path / "out")["it-drascula"]
    output = capsys.readouterr().out

    assert content["options"]["num_steps"] == 2
    assert all(f"{loss:.3f}" in output for loss in losses)
    assert (tmp_path / "out" / "adaptation.png").read_bytes().startswith(b"\x89PNG")

    (tmp_path / "out" / "adaptation.json").write_text("{}")
    with pytest.raises(InputError, match="is not what this version of `eqssl adapt` writes"):
        read_adaptation(tmp_path / "out")
