"""Encoders come from runs of ours, from assets of the host and from files, whole and to the bit, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fairseq2.models.wav2vec2 import create_wav2vec2_model
from fairseq2.models.wav2vec2.asr import (
    Wav2Vec2AsrModel,
    create_wav2vec2_asr_model,
)
from random_encoders import make_model, make_tensors, randomize
from safetensors.torch import save_file
from torch import Tensor
from written_runs import write_run

from eqssl_speech.error import InputError
from eqssl_speech.models.hubert import create_hubert_model
from eqssl_speech.models.hubert.config import micro_config as micro_hubert_config
from eqssl_speech.models.opening import open_checkpoint, read_encoder_config, read_encoder_type
from eqssl_speech.models.recognizer_info import write_recognizer_info
from eqssl_speech.models.wav2vec2.asr import micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.models.wav2vec2.load_report import LoadReport
from eqssl_speech.models.wav2vec2.pretrained import (
    PretrainedEncoder,
    load_encoder,
    open_encoder,
)

ENCODER = ("encoder_frontend.", "encoder.", "masker.")


def assert_loaded(
    model: Wav2Vec2AsrModel,
    tensors: dict[str, Tensor],
    report: LoadReport,
    modules: tuple[str, ...] = ENCODER,
) -> None:
    fresh = make_model().state_dict()

    for name, tensor in model.state_dict().items():
        expected = tensors[name] if name.startswith(modules) else fresh[name]
        assert torch.equal(tensor, expected), name

    assert list(report.loaded) == [n for n in fresh if n.startswith(modules)]
    assert list(report.newly_made) == [n for n in fresh if not n.startswith(modules)]


def test_our_pretraining_saves_the_hosts_names() -> None:
    assert list(make_tensors()) == list(create_wav2vec2_model(micro_config()).state_dict())


def test_a_run_of_pretraining_is_loaded(tmp_path: Path) -> None:
    tensors = make_tensors()
    write_run(tmp_path, tensors, micro_config())

    for path, source in (
        (tmp_path, f"{tmp_path}, step 500"),
        (tmp_path / "checkpoints" / "step_500", f"{tmp_path / 'checkpoints' / 'step_500'}"),
    ):
        model = make_model()
        report = load_encoder(model, str(path), micro_asr_config().encoder_config)

        assert_loaded(model, tensors, report)
        assert report.source == source
        assert {n.split(".")[0] for n in report.left_out} == {
            "quantizer",
            "final_proj",
            "final_target_proj",
        }
        assert read_encoder_config(path) == micro_config().encoder_config
        assert open_encoder(path).config == micro_config().encoder_config


def make_hubert_tensors() -> dict[str, Tensor]:
    return randomize(create_hubert_model(micro_hubert_config([5, 7])).state_dict(), seed=5)


def test_a_run_of_hubert_is_loaded_without_its_head(tmp_path: Path) -> None:
    config = micro_hubert_config([5, 7])
    tensors = make_hubert_tensors()
    write_run(tmp_path, tensors, config, family="hubert")
    model = make_model()

    report = load_encoder(model, tmp_path, micro_asr_config().encoder_config)

    assert_loaded(model, tensors, report)
    assert report.left_out == {
        "final_proj.weight": 48 * 48,
        "final_proj.bias": 48,
        "code_embeddings": 12 * 24,
    }
    assert read_encoder_config(tmp_path) == config.encoder_config


def test_a_run_of_fine_tuning_is_loaded_without_its_output_layer(tmp_path: Path) -> None:
    config = micro_asr_config()
    tensors = randomize(create_wav2vec2_asr_model(config).state_dict(), seed=2)
    write_run(tmp_path, tensors, config, family="wav2vec2_asr")
    model = make_model()

    report = load_encoder(model, tmp_path)

    assert_loaded(model, tensors, report)
    assert report.left_out == {"final_proj.weight": 32 * 48, "final_proj.bias": 32}
    assert read_encoder_config(tmp_path) == config.encoder_config


@pytest.mark.parametrize(
    ("info", "expected"),
    [(None, "wav2vec2"), ({}, "wav2vec2"), ({"encoder_type": "hubert"}, "hubert")],
    ids=["no file", "of an earlier version", "hubert"],
)
def test_a_run_of_fine_tuning_says_what_its_encoder_was(
    tmp_path: Path, info: dict[str, object] | None, expected: str
) -> None:
    config = micro_asr_config()
    write_run(tmp_path, create_wav2vec2_asr_model(config).state_dict(), config, "wav2vec2_asr")
    if info is not None:
        write_recognizer_info(tmp_path, info)

    for path in (tmp_path, tmp_path / "checkpoints" / "step_500"):
        assert read_encoder_type(path) == open_checkpoint(path).encoder_type == expected


def test_a_link_to_checkpoints_leads_to_the_run(tmp_path: Path) -> None:
    config = micro_asr_config()
    run = tmp_path / "run"
    write_run(run, create_wav2vec2_asr_model(config).state_dict(), config, "wav2vec2_asr")
    write_recognizer_info(run, {"encoder_type": "hubert"})
    (tmp_path / "best").symlink_to(run / "checkpoints" / "step_500")

    assert open_checkpoint(tmp_path / "best").encoder_type == "hubert"


def test_a_step_by_itself_is_of_no_run(tmp_path: Path) -> None:
    config = micro_asr_config()
    write_run(
        tmp_path / "a", create_wav2vec2_asr_model(config).state_dict(), config, "wav2vec2_asr"
    )
    (tmp_path / "a" / "checkpoints").rename(tmp_path / "b")

    checkpoint = open_checkpoint(tmp_path / "b" / "step_500")

    assert checkpoint.run is not None
    assert checkpoint.run.run_dir is None
    assert checkpoint.encoder_type == "wav2vec2"


def test_a_run_of_pre_training_says_what_its_encoder_is(tmp_path: Path) -> None:
    write_run(tmp_path / "a", make_tensors(), micro_config())
    write_run(tmp_path / "b", make_hubert_tensors(), micro_hubert_config([5, 7]), family="hubert")

    assert [read_encoder_type(tmp_path / name) for name in "ab"] == ["wav2vec2", "hubert"]


def test_a_run_of_another_family_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, make_tensors(), micro_config(), family="wav2vec2_llama")

    for function in (read_encoder_config, open_encoder):
        with pytest.raises(InputError, match="is of the model family `wav2vec2_llama`"):
            function(tmp_path)


def test_a_configuration_of_another_version_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, make_tensors(), micro_config())
    file = tmp_path / "checkpoints" / "model.yaml"
    file.write_text(file.read_text().replace("    model_dim:", "    modell_dim:"))

    with pytest.raises(
        InputError, match=r"model\.yaml: the configuration .* cannot be read.*modell_dim"
    ):
        read_encoder_config(tmp_path)


def make_file_pt(file: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, file.with_suffix(".pt"))

    return file.with_suffix(".pt")


def make_file_safetensors(file: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, file.with_suffix(".safetensors"))

    return file.with_suffix(".safetensors")


@pytest.mark.parametrize("make_file", [make_file_pt, make_file_safetensors])
@pytest.mark.parametrize("kind", ["pretraining", "asr", "encoder"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.w2v.", "encoder."])
def test_a_file_is_loaded_whatever_its_prefix(
    tmp_path: Path, make_file: Callable[..., Path], kind: str, prefix: str
) -> None:
    tensors, modules = make_tensors(), ENCODER
    if kind == "asr":
        tensors = randomize(make_model().state_dict(), seed=3)
    if kind == "encoder":
        modules = ENCODER[:2]
        tensors = {n: t for n, t in tensors.items() if n.startswith(modules)}

    file = make_file(tmp_path / "a", {prefix + name: t for name, t in tensors.items()})
    model = make_model()

    report = load_encoder(model, file)

    assert_loaded(model, tensors, report, modules)
    kept = prefix.removeprefix("module.")
    assert set(report.left_out) == {kept + n for n in tensors if not n.startswith(modules)}
    # The shapes tell all that there is, unless the names are strange.
    assert read_encoder_config(file) == (None if kept else micro_config().encoder_config)


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of asset cards, which the host finds; nothing else that it has is touched."""
    directory = tmp_path / "assets"
    directory.mkdir()

    monkeypatch.setenv("FAIRSEQ2_USER_ASSET_DIR", str(directory))
    monkeypatch.setenv("FAIRSEQ2_NO_PROGRESS", "1")
    monkeypatch.setattr("fairseq2.runtime.dependency._resolver", None)

    return directory


def write_card(directory: Path, name: str, family: str, arch: str, checkpoint: str) -> None:
    (directory / f"{name}.yaml").write_text(
        f"name: {name}\nmodel_family: {family}\nmodel_arch: {arch}\ncheckpoint: {checkpoint}\n"
    )


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2_asr", "hubert"])
def test_an_asset_is_loaded(tmp_path: Path, assets: Path, family: str) -> None:
    tensors = make_tensors()
    if family == "wav2vec2_asr":
        tensors = randomize(create_wav2vec2_asr_model(micro_asr_config()).state_dict(), seed=4)
    if family == "hubert":
        tensors = randomize(create_hubert_model(micro_hubert_config()).state_dict(), seed=4)
    torch.save({"model": tensors}, tmp_path / "a.pt")
    write_card(assets, "my_wav2vec2", family, "micro", str(tmp_path / "a.pt"))
    model = make_model()

    report = load_encoder(model, "my_wav2vec2")

    assert_loaded(model, tensors, report)
    assert report.source == "the asset my_wav2vec2"

    expected = micro_asr_config() if family == "wav2vec2_asr" else micro_config()
    assert read_encoder_config("my_wav2vec2") == expected.encoder_config


def test_an_asset_of_hubert_needs_no_head(tmp_path: Path, assets: Path) -> None:
    tensors = {n: t for n, t in make_hubert_tensors().items() if n.startswith(ENCODER)}
    torch.save(tensors, tmp_path / "a.pt")
    write_card(assets, "my_hubert", "hubert", "micro", str(tmp_path / "a.pt"))
    model = make_model()

    assert_loaded(model, tensors, load_encoder(model, "my_hubert"))

    # What is no encoder at all is refused by name, as pre-training would refuse it.
    torch.save({"feature_extractor.conv_layers.0.0.weight": torch.ones(2)}, tmp_path / "a.pt")

    with pytest.raises(
        InputError, match=r"The asset `my_hubert` cannot be loaded: The checkpoint, .* fairseq, has"
    ):
        load_encoder(model, "my_hubert")


def test_the_configuration_of_an_asset_needs_no_download(assets: Path) -> None:
    config = read_encoder_config("wav2vec2_base")

    assert config is not None
    assert (config.model_dim, config.num_encoder_layers) == (768, 12)


def test_an_asset_that_cannot_be_loaded_is_refused(tmp_path: Path, assets: Path) -> None:
    write_card(assets, "my_missing", "wav2vec2", "micro", str(tmp_path / "missing.pt"))
    write_card(assets, "my_llama", "llama", "llama3_8b", str(tmp_path / "missing.pt"))
    write_card(assets, "my_arch", "wav2vec2", "none", str(tmp_path / "missing.pt"))

    for name, error in (
        ("my_missing", "The asset `my_missing` cannot be loaded"),
        ("my_llama", "`my_llama` is a model of the family `llama`; .* wav2vec2 or wav2vec2_asr"),
        ("librispeech_asr", "The asset `librispeech_asr` is no model"),
        ("my_arch", "The asset card `my_arch` cannot be used: .* is none instead"),
        ("wav2vec2_bas", r"neither a file or directory nor an asset .*close ones: wav2vec2_base,"),
        ("qqq", "`qqq` is neither a file or directory nor an asset that fairseq2 knows; correct"),
    ):
        with pytest.raises(InputError, match=error):
            open_encoder(name)


@pytest.mark.parametrize("spec", ["runs/none", "none.pt", "none.safetensors", Path("none")])
def test_a_path_that_does_not_exist_is_called_so(spec: str | Path) -> None:
    with pytest.raises(InputError, match=r"none.*: there is no such checkpoint; correct the path"):
        open_encoder(spec)


def test_a_model_may_have_fewer_layers_than_the_checkpoint() -> None:
    tensors = make_tensors()
    model = make_model(num_encoder_layers=1)
    ours = replace(micro_config().encoder_config, num_encoder_layers=1)

    report = load_encoder(
        model, PretrainedEncoder("a", tensors, micro_config().encoder_config), ours
    )

    assert torch.equal(
        model.encoder.layers[0].ffn.inner_proj.weight,
        tensors["encoder.layers.0.ffn.inner_proj.weight"],
    )
    assert "encoder.layers.1.ffn.inner_proj.weight" in report.left_out


@pytest.mark.parametrize("num_new_layers", [0, 1, 2])
def test_the_last_layers_can_be_new(num_new_layers: int) -> None:
    tensors = make_tensors()
    model = make_model()
    fresh = make_model().state_dict()

    report = load_encoder(
        model, PretrainedEncoder("a", tensors, None), num_new_layers=num_new_layers
    )

    new = tuple(f"encoder.layers.{i}." for i in range(2 - num_new_layers, 2))

    for name, tensor in model.state_dict().items():
        is_new = name.startswith(("final_proj.", *new))
        assert torch.equal(tensor, fresh[name] if is_new else tensors[name]), name
        assert (name in report.newly_made) == is_new
        assert (name in report.loaded) != is_new
        assert (name in report.left_out) == is_new


@pytest.mark.parametrize("num_new_layers", [-1, 3])
def test_there_cannot_be_more_new_layers_than_layers(num_new_layers: int) -> None:
    encoder = PretrainedEncoder("a", make_tensors(), None)

    with pytest.raises(ValueError, match=r"`num_new_layers` must be in \[0, 2\]"):
        load_encoder(make_model(), encoder, num_new_layers=num_new_layers)


def test_a_model_on_the_meta_device_is_only_checked() -> None:
    with torch.device("meta"):
        model = make_model()

    tensors = make_tensors()
    report = load_encoder(model, PretrainedEncoder("a.pt", tensors, None))

    assert report == load_encoder(make_model(), PretrainedEncoder("a.pt", tensors, None))
    assert all(p.is_meta for p in model.parameters())

    del tensors["encoder.layers.0.ffn_layer_norm.weight"]
    with pytest.raises(InputError, match="has no tensor"):
        load_encoder(model, PretrainedEncoder("a.pt", tensors, None))


def test_half_precision_is_converted() -> None:
    tensors = make_tensors()
    model = make_model()

    load_encoder(model, PretrainedEncoder("a", {n: t.half() for n, t in tensors.items()}, None))

    weight = model.encoder.layers[0].ffn.inner_proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, tensors["encoder.layers.0.ffn.inner_proj.weight"].half().float())


def test_a_model_without_masks_leaves_the_masker_out() -> None:
    config = replace(micro_asr_config(), use_masking=False)

    report = load_encoder(
        create_wav2vec2_asr_model(config), PretrainedEncoder("a", make_tensors(), None)
    )

    assert "masker.temporal_mask_embed" in report.left_out


def test_the_report_is_short_and_counts() -> None:
    left_out = {f"module_{i}.weight": 10**i for i in range(8)}
    report = LoadReport(
        "RUN, step 500",
        loaded={"encoder.a": 1000, "encoder.b": 200, "masker.c": 48},
        left_out=left_out,
        newly_made={},
    )

    assert report.render().splitlines() == [
        "Encoder of RUN, step 500:",
        "  loaded      3 tensors       1,248 parameters  encoder 1,200, masker 48",
        "  left out    8 tensors  11,111,111 parameters  module_0 1, module_1 10, module_2 100, "
        "module_3 1,000, module_4 10,000, and 3 more",
        "  newly made  0 tensors           0 parameters",
    ]
