"""What is written as ONNX computes in onnxruntime what our model does."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import (
    CONFIGS,
    LARGE_CONFIGS,
    LETTERS,
    MICRO,
    NORMALIZED,
    TOLERANCE,
    Exported,
    export,
    export_once,
    find_largest,
    make_model,
    make_noise,
    pad,
    read_recording,
    run_graph,
)
from torch.nn import Tanh

from eqssl_speech.error import InputError
from eqssl_speech.export.model import Outputs
from eqssl_speech.export.onnx import OnnxRunner, SherpaRunner
from eqssl_speech.export.vocabulary import Vocabulary
from eqssl_speech.models.wav2vec2 import accelerate

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("sherpa_onnx")

Record = Any

# In samples. A frame sees 400.
BATCHES = {
    "single": [16_000],
    "padded": [12_000, 8_321, 10_000],
    "whole": [5_000, 5_000],
    "shortest": [400],
    "short-and-padded": [1_600, 400, 719, 1_039],
    "long": [320_000],
    "long-and-padded": [320_000, 16_000],
}

CASES = [
    *((name, batch) for name in CONFIGS for batch in BATCHES if not batch.startswith("long")),
    *((name, "long") for name in ("micro", "normalized", "rotary", "conformer-relative")),
    *((name, "long-and-padded") for name in ("micro", "biased-group-norm", "normalized")),
    *((name, "padded") for name in LARGE_CONFIGS),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_once(tmp_path_factory.mktemp("exported"))


@functools.cache
def open_once(directory: Path) -> OnnxRunner:
    """To open a large model takes longer than to compute it."""
    return OnnxRunner(directory)


def assert_near(ours: Outputs, theirs: Outputs, record: Record) -> None:
    for what, x, y in (
        ("features", ours.features, theirs.features),
        ("logits", ours.logits, theirs.logits),
    ):
        largest = find_largest(x, y)

        record(what, largest)
        assert largest <= TOLERANCE, what


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_features_and_logits_are_those_of_our_model(
    name: str, batch: str, exported: Exported, record_property: Record
) -> None:
    model, directory = exported(name)
    waveforms = make_noise(BATCHES[batch])

    assert_near(model.run(waveforms), open_once(directory).run(waveforms), record_property)


@pytest.mark.parametrize("name", list(LARGE_CONFIGS))
def test_recordings_give_the_same_loud_and_quiet(
    name: str, exported: Exported, record_property: Record
) -> None:
    model, directory = exported(name)
    waveforms = [
        read_recording("ru_0105.ogg", 40_000),
        read_recording("ru_0121.ogg", 30_000, level=0.001),
    ]

    assert_near(model.run(waveforms), open_once(directory).run(waveforms), record_property)


@pytest.mark.parametrize("name", ["micro", "normalized", "conformer-relative", "rotary"])
def test_an_accelerated_model_gives_the_same_bytes(
    name: str, exported: Exported, tmp_path: Path
) -> None:
    _, directory = exported(name)

    model = make_model(CONFIGS[name], len(LETTERS.pieces))
    accelerate(model)

    assert read_all(export(tmp_path / "again", model, LETTERS)) == read_all(directory)


def read_all(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("name", ["micro", "conformer"])
def test_the_model_stays_as_it_is_to_the_bit(name: str, tmp_path: Path) -> None:
    model = make_model(CONFIGS[name], len(LETTERS.pieces))
    before = {key: x.clone() for key, x in model.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]

    export(tmp_path / "out", model, LETTERS)

    after = model.state_dict()

    assert list(after) == list(before)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(param.requires_grad for param in model.parameters())


@pytest.mark.parametrize("name", ["micro", "normalized", "conformer"])
def test_what_stands_in_padding_changes_nothing(name: str, exported: Exported) -> None:
    _, directory = exported(name)
    waveforms = make_noise([4_000, 2_345, 800])
    num_samples = np.asarray([len(w) for w in waveforms])

    outputs = [
        run_graph(
            directory / "model.onnx", waveforms=pad(waveforms, value), num_samples=num_samples
        )
        for value in (0.0, 1e9, np.nan, np.inf)
    ]

    for other in outputs[1:]:
        for what, x in outputs[0].items():
            np.testing.assert_array_equal(other[what], x)


def test_an_utterance_too_short_for_a_frame_has_none_and_spoils_no_other(
    exported: Exported,
) -> None:
    _, directory = exported("normalized")
    waveforms = make_noise([4_000, 399, 0])

    output = run_graph(
        directory / "model.onnx",
        waveforms=pad(waveforms, np.nan),
        num_samples=np.asarray([4_000, 399, 0]),
    )
    alone = OnnxRunner(directory).run(waveforms[:1])

    assert output["num_frames"].tolist() == [12, 0, 0]
    assert np.isfinite(output["logits"]).all()
    np.testing.assert_allclose(output["features"][0], alone.features[0], atol=TOLERANCE, rtol=0.0)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_files_are_valid_and_hold_nothing_but_the_model(name: str, exported: Exported) -> None:
    model, directory = exported(name)

    assert {file.name for file in directory.iterdir()} == {
        "model.onnx",
        "model.weights",
        "sherpa.onnx",
        "tokens.txt",
    }

    for file in ("model.onnx", "sherpa.onnx"):
        onnx.checker.check_model(str(directory / file), full_check=True)

        proto = onnx.load(directory / file, load_external_data=False)
        keys = [entry.key for entry in proto.metadata_props]

        assert keys == sorted(keys)
        assert not proto.doc_string
        assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
        assert {t.data_type for t in proto.graph.initializer if t.external_data} == {
            onnx.TensorProto.FLOAT
        }
        # All that is large is in the other file.
        assert (directory / file).stat().st_size < 100_000

    # Once, and not once for each graph; what is no parameter are tables of positions.
    num_bytes = 4 * sum(param.numel() for param in model.parameters())
    is_plain = CONFIGS[name].pos_encoder_type == "conv"

    size = (directory / "model.weights").stat().st_size
    assert num_bytes <= size + 4 * 128 * 16
    assert not is_plain or size <= 1.05 * num_bytes + 4_096 * len(model.state_dict())


def test_the_metadata_says_what_a_user_needs(exported: Exported) -> None:
    _, directory = exported("micro")

    def read(file: str) -> dict[str, str]:
        proto = onnx.load(directory / file, load_external_data=False)

        return {entry.key: entry.value for entry in proto.metadata_props}

    given = {"a": "b", "source": "s", "sample_rate": "16000", "vocab_size": "11"}

    assert read("model.onnx") == {**given, "blank_index": "0", "silent_indices": "0 1"}
    assert read("sherpa.onnx") == {**given, "model_type": "omnilingual-asr", "version": "1"}


def test_an_encoder_alone_has_features_and_no_labels(tmp_path: Path) -> None:
    model = make_model(NORMALIZED, None)
    directory = export(tmp_path / "out", model, None)
    waveforms = make_noise([3_000, 2_000])

    ours, theirs = model.run(waveforms), OnnxRunner(directory).run(waveforms)

    assert {file.name for file in directory.iterdir()} == {"model.onnx", "model.weights"}
    assert theirs.logits is None
    assert find_largest(ours.features, theirs.features) <= TOLERANCE


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "sherpa_onnx"])
def test_a_package_that_is_missing_is_named(
    package: str, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, directory = exported("micro")

    monkeypatch.setitem(sys.modules, package, None)

    start: dict[str, Any] = {
        "onnx": lambda: export(tmp_path / "out", model, LETTERS),
        "onnxruntime": lambda: OnnxRunner(directory),
        "sherpa_onnx": lambda: SherpaRunner(directory),
    }

    with pytest.raises(InputError) as caught:
        start[package]()

    assert str(caught.value) == (
        f"ONNX export needs {package}, which is not installed; "
        "install it with `pip install eqssl_speech[export]`."
    )


@pytest.mark.parametrize("runner", [OnnxRunner, SherpaRunner])
def test_a_directory_without_a_model_is_refused(runner: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no (model|sherpa)\.onnx; give what `eqssl export"):
        runner(tmp_path)


def test_filterbanks_are_refused(tmp_path: Path) -> None:
    config = replace(MICRO, use_fbank=True, num_fbank_channels=16, fbank_stride=2)

    with pytest.raises(InputError, match=r"`encoder_frontend\.feature_extractor` .*FbankFeature"):
        export(tmp_path / "out", make_model(config, None), None)


def test_what_is_not_known_is_refused_by_its_name(tmp_path: Path) -> None:
    model = make_model(MICRO, None)
    model.encoder.layers[1].ffn.inner_activation = Tanh()

    with pytest.raises(
        InputError, match=r"`encoder\.layers\.1\.ffn\.inner_activation` .* `Tanh`, .* `--to`\."
    ):
        export(tmp_path / "out", model, None)


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The model has 5 labels, but its vocabulary has 11"):
        export(tmp_path / "out", make_model(MICRO, 5), LETTERS)


@pytest.mark.parametrize(("num_labels", "vocabulary"), [(None, LETTERS), (11, None)])
def test_an_output_layer_and_a_vocabulary_go_together(
    num_labels: int | None, vocabulary: Vocabulary | None, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="`vocabulary` must be given for a model with an output"):
        export(tmp_path / "out", make_model(MICRO, num_labels), vocabulary)
