"""Encoders come from runs of ours, from assets of the host and from files, whole and to the bit, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fairseq2.checkpoint import StandardModelMetadataDumper
from fairseq2.file_system import NativeLocalFileSystem
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
from fairseq2.models.wav2vec2.asr import (
    Wav2Vec2AsrModel,
    create_wav2vec2_asr_model,
)
from fairseq2.utils.structured import StandardValueConverter
from fairseq2.utils.yaml import RuamelYamlDumper
from safetensors.torch import save_file
from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.models.wav2vec2 import prepare_model
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.models.wav2vec2.load_report import LoadReport
from eqssl_speech.models.wav2vec2.pretrained import (
    PretrainedEncoder,
    load_encoder,
    open_encoder,
    read_encoder_config,
)

# So that the projection of pre-training has the shape of the output layer, and could be taken for it.
VOCAB_SIZE = micro_config().final_dim

ENCODER = ("encoder_frontend.", "encoder.", "masker.")


def make_tensors(config: Wav2Vec2Config | None = None, seed: int = 1) -> dict[str, Tensor]:
    """What pre-training saves; all at random, as some parameters are initialised alike in every model."""
    model = prepare_model(create_wav2vec2_model(config or micro_config()))

    return randomize(model.state_dict(), seed)


def randomize(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    return {n: torch.randn(t.shape, generator=generator) for n, t in tensors.items()}


def make_model(**overrides: object) -> Wav2Vec2AsrModel:
    torch.manual_seed(0)
    config = fit_asr_config(micro_asr_config(), micro_config().encoder_config, VOCAB_SIZE)
    config = replace(config, encoder_config=replace(config.encoder_config, **overrides))

    return create_wav2vec2_asr_model(config)


def write_run(
    run: Path, tensors: dict[str, Tensor], config: object, family: str = "wav2vec2"
) -> None:
    """Write a run as the host does."""
    files = NativeLocalFileSystem()
    dumper = StandardModelMetadataDumper(files, RuamelYamlDumper(files), StandardValueConverter())
    dumper.dump(run / "checkpoints", family, config)

    file = run / "checkpoints" / "step_500" / "model" / "pp_00" / "tp_00" / "sdp_00.pt"
    file.parent.mkdir(parents=True)
    torch.save(tensors, file)


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


def assert_untouched(model: Wav2Vec2AsrModel) -> None:
    for name, tensor in make_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


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


def test_a_run_of_fine_tuning_is_loaded_without_its_output_layer(tmp_path: Path) -> None:
    config = micro_asr_config()
    tensors = randomize(create_wav2vec2_asr_model(config).state_dict(), seed=2)
    write_run(tmp_path, tensors, config, family="wav2vec2_asr")
    model = make_model()

    report = load_encoder(model, tmp_path)

    assert_loaded(model, tensors, report)
    assert report.left_out == {"final_proj.weight": 32 * 48, "final_proj.bias": 32}
    assert read_encoder_config(tmp_path) == config.encoder_config


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
    assert set(report.left_out) == {prefix + n for n in tensors if not n.startswith(modules)}
    assert read_encoder_config(file) is None


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


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2_asr"])
def test_an_asset_is_loaded(tmp_path: Path, assets: Path, family: str) -> None:
    tensors = make_tensors()
    if family == "wav2vec2_asr":
        tensors = randomize(create_wav2vec2_asr_model(micro_asr_config()).state_dict(), seed=4)
    torch.save({"model": tensors}, tmp_path / "a.pt")
    write_card(assets, "my_wav2vec2", family, "micro", str(tmp_path / "a.pt"))
    model = make_model()

    report = load_encoder(model, "my_wav2vec2")

    assert_loaded(model, tensors, report)
    assert report.source == "the asset my_wav2vec2"

    expected = micro_config() if family == "wav2vec2" else micro_asr_config()
    assert read_encoder_config("my_wav2vec2") == expected.encoder_config


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


def refuse(tensors: dict[str, Tensor], error: str, model: Wav2Vec2AsrModel | None = None) -> None:
    model = model or make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(InputError, match=error):
        load_encoder(model, PretrainedEncoder("a.pt", tensors, None))

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was loaded all the same"


@pytest.mark.parametrize(
    ("overrides", "tensor", "shapes", "key"),
    [
        (
            {"model_dim": 96, "ffn_inner_dim": 384},
            "encoder.layers.0.self_attn.q_proj.weight",
            r"\(96, 96\), but \(48, 48\)",
            "model_dim",
        ),
        (
            {"ffn_inner_dim": 100},
            "encoder.layers.0.ffn.inner_proj.weight",
            r"\(100, 48\), but \(192, 48\)",
            "ffn_inner_dim",
        ),
        (
            {"pos_conv_kernel_size": 64},
            "encoder_frontend.pos_encoder.conv.weight_g",
            r"\(1, 1, 64\), but \(1, 1, 128\)",
            "pos_conv_kernel_size",
        ),
        (
            {"feature_extractor_layer_descs": [(32, 10, 5)] + [(32, 3, 2)] * 6},
            "encoder_frontend.feature_extractor.layers.5.conv.weight",
            r"\(32, 32, 3\), but \(32, 32, 2\)",
            "feature_extractor_layer_descs",
        ),
    ],
)
def test_another_shape_is_refused_with_the_key_to_set(
    overrides: dict[str, object], tensor: str, shapes: str, key: str
) -> None:
    config = micro_config()
    config.encoder_config = replace(config.encoder_config, **overrides)

    refuse(
        make_tensors(config),
        rf"a.pt: the tensor `{tensor}` has the shape {shapes} in the model( and [0-9]+ more)?; "
        rf"set `model.arch` \(or `model.config_overrides.encoder_config.{key}`\)",
    )


def test_a_checkpoint_that_lacks_a_layer_is_refused() -> None:
    tensors = {n: t for n, t in make_tensors().items() if not n.startswith("encoder.layers.1.")}

    refuse(
        tensors, r"has no tensor `encoder\.layers\.1\.[a-z_.]*` and 15 more, which the model has"
    )


def test_a_checkpoint_of_another_norm_order_is_refused() -> None:
    model = make_model(norm_order=TransformerNormOrder.POST)

    refuse(
        make_tensors(), r"has the tensor `encoder\.layer_norm\.weight` and 1 more, which the", model
    )


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


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("num_encoder_attn_heads", 4, True),  # which no shape shows
        (
            "feature_extractor_layer_descs",
            [(32, 10, 4)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2,
            True,
        ),
        ("num_encoder_layers", 3, True),
        ("dropout_p", 0.3, False),
        ("layer_drop_p", 0.3, False),
        ("feature_grad_scale", 0.1, False),
    ],
)
def test_a_configuration_that_computes_something_else_is_refused(name, value, refused) -> None:
    encoder = PretrainedEncoder("a.pt", make_tensors(), micro_config().encoder_config)
    config = replace(micro_asr_config().encoder_config, **{name: value})
    model = make_model()

    if not refused:
        load_encoder(model, encoder, config)
        return

    with pytest.raises(InputError, match=rf"encoder_config\.{name}` is .* has .*; leave it out"):
        load_encoder(model, encoder, config)

    assert_untouched(model)


def test_checkpoints_of_other_libraries_are_called_so() -> None:
    tensor = {"encoder.layers.0.fc1.weight": torch.ones(2, 2)}

    for name, library in (
        (
            "feature_extractor.conv_layers.0.0.weight",
            "fairseq, whose .*convert_wav2vec2_state_dict",
        ),
        ("w2v_encoder.w2v_model.mask_emb", "fairseq, whose"),
        ("wav2vec2.feature_extractor.conv_layers.0.conv.weight", "Hugging Face transformers or"),
        ("feature_extractor.conv_layers.0.layer_norm.weight", "Hugging Face transformers or"),
    ):
        refuse(tensor | {name: torch.ones(3)}, f"a.pt: is a checkpoint of {library}")


def test_a_checkpoint_without_an_encoder_is_refused() -> None:
    tensors = {"decoder.embed.weight": torch.ones(2), "layers.0.weight": torch.ones(2)}

    refuse(
        tensors, r"holds no tensor of a wav2vec 2.0 encoder \(the first of its 2 is `decoder.embed"
    )


def test_two_encoders_in_one_file_are_refused() -> None:
    tensors = make_tensors()

    refuse(
        {f"{who}.{n}": t for who in ("student", "teacher") for n, t in tensors.items()},
        "holds several encoders, under `student.` and `teacher.`",
    )


def test_numbers_that_are_not_finite_are_refused() -> None:
    tensors = make_tensors()
    tensors["encoder.layers.1.ffn.inner_proj.bias"][3] = torch.nan

    refuse(tensors, r"the tensor `encoder.layers.1.ffn.inner_proj.bias` holds numbers that are not")


def test_a_model_on_the_meta_device_is_only_checked() -> None:
    with torch.device("meta"):
        model = make_model()

    tensors = make_tensors()
    report = load_encoder(model, PretrainedEncoder("a.pt", tensors, None))

    assert report == load_encoder(make_model(), PretrainedEncoder("a.pt", tensors, None))
    assert all(p.is_meta for p in model.parameters())

    del tensors["encoder.layer_norm.weight"]
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
