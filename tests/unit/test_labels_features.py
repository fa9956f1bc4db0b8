"""Features are those of their definition, on the grid of frames, however a recording is cut into windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
from fairseq2.nn import BatchLayout
from label_runs import make_run, with_encoder
from numpy.typing import NDArray
from random_encoders import make_tensors
from torch import Tensor
from torch.nn.functional import layer_norm
from written_runs import write_run

from eqssl_speech.error import InputError
from eqssl_speech.export.loading import load_export_source
from eqssl_speech.export.transformers_target import write_transformers
from eqssl_speech.labels.features import FeatureExtractor, FrameWindow, MfccExtractor, plan_windows
from eqssl_speech.labels.layers import LayerExtractor, read_encoder
from eqssl_speech.labels.settings import MFCC, FeatureStamp, count_frames
from eqssl_speech.models.hubert.config import micro_config as micro_hubert_config
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.text.frames import FRAME_STRIDE, num_frames

Waveform = NDArray[np.float32]


def extract(extractor: FeatureExtractor, waveform: Waveform, *windows: FrameWindow) -> Tensor:
    """Features of windows, side by side; by default of all."""

    def read(start: int, num_samples: int) -> Waveform:
        assert 0 <= start <= start + num_samples <= len(waveform)

        return waveform[start : start + num_samples]

    total = count_frames(len(waveform), extractor.stamp)

    return torch.cat(
        [extractor.extract(read, len(waveform), w) for w in windows or (FrameWindow(0, total),)]
    )


@pytest.fixture
def speech(make_speech: Callable[..., Waveform]) -> Waveform:
    return make_speech(3, 2.3)


def test_windows_cover_an_utterance_and_differ_by_a_frame() -> None:
    for total, longest in ((1, 5), (5, 5), (6, 5), (101, 7), (10_001, 5000)):
        windows = plan_windows(total, longest)
        lengths = [w.num_frames for w in windows]

        assert [w.start for w in windows] == [0, *(w.stop for w in windows[:-1])]
        assert windows[-1].stop == total
        assert max(lengths) <= longest
        assert max(lengths) - min(lengths) <= 1
        assert len(windows) == -(-total // longest)

    assert plan_windows(0, 5) == []


def test_frames_of_layers_are_those_of_the_convolutions() -> None:
    stamp = FeatureStamp("layer", 320, 8)

    for num_samples in (0, 399, 400, 719, 720, 721, 16_000, 123_457):
        assert count_frames(num_samples, stamp) == num_frames(num_samples)
        # Each frame of a model has an MFCC that begins where it does.
        assert count_frames(num_samples, MFCC) >= 2 * num_frames(num_samples) - 1


def test_the_stride_is_that_of_the_convolutions() -> None:
    assert FRAME_STRIDE == 320

    for count in (1, 2, 57):
        # The shortest audio of so many frames.
        assert num_frames(400 + (count - 1) * FRAME_STRIDE) == count
        assert num_frames(400 + (count - 1) * FRAME_STRIDE - 1) == count - 1


def test_mfccs_are_the_same_in_windows_and_at_once(speech: Waveform) -> None:
    extractor = MfccExtractor()
    total = count_frames(len(speech), MFCC)

    whole = extract(extractor, speech)
    assert whole.shape == (total, 39)

    for longest in (1, 3, 50):
        parts = extract(extractor, speech, *plan_windows(total, longest))

        # Products of other sizes are rounded otherwise.
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-3)


def test_differences_are_least_squares_slopes_over_five_frames(speech: Waveform) -> None:
    features = extract(MfccExtractor(), speech).double().numpy()

    for first in (0, 13):
        padded = np.pad(features[:, first : first + 13], ((2, 2), (0, 0)), mode="edge")
        slopes = sum(k * padded[2 + k : len(padded) - 2 + k] for k in (-2, -1, 1, 2)) / 10

        np.testing.assert_allclose(features[:, first + 13 : first + 26], slopes, atol=1e-3)


def test_an_mfcc_describes_the_audio_from_its_place_on() -> None:
    rng = np.random.default_rng(1)
    waveform = np.zeros(16_000, np.float32)
    # From 0.5 s to the end.
    waveform[8000:] = rng.standard_normal(8000)

    energy = extract(MfccExtractor(), waveform)[:, 0]

    # 25 ms from frame 48 on still reach 0.5 s.
    assert bool((energy[:48] < energy[:48].min() + 1e-3).all())
    assert energy[50] > energy[47] + 10


def run_whole_model(
    config: Wav2Vec2Config, tensors: dict[str, Tensor], waveform: Tensor, layer: int
) -> Tensor:
    """What the host's own model gives, seen by a hook."""
    model = create_wav2vec2_model(config)
    model.load_state_dict(tensors, strict=False)
    model.eval()
    seen = {}

    def hook(index: int, output: Tensor, layout: BatchLayout, count: int) -> bool:
        seen[index + 1] = output[0]
        return True

    model.encoder.register_layer_hook(hook)
    with torch.inference_mode():
        model.encoder(*model.encoder_frontend(waveform[None], BatchLayout.of(waveform[None])))

    return seen[layer]


@pytest.mark.parametrize("norm_order", [TransformerNormOrder.PRE, TransformerNormOrder.POST])
@pytest.mark.parametrize("layer_norm_convs", [False, True])
def test_a_layer_is_the_output_before_the_last_norm(
    tmp_path: Path, speech: Waveform, norm_order: TransformerNormOrder, layer_norm_convs: bool
) -> None:
    config = with_encoder(
        norm_order=norm_order, feature_extractor_layer_norm_convs=layer_norm_convs, dropout_p=0.1
    )
    tensors = make_run(tmp_path / "run", config)
    checkpoint = read_encoder(tmp_path / "run")

    waveform = torch.from_numpy(speech)
    if layer_norm_convs:
        waveform = layer_norm(waveform, waveform.shape)

    for layer in (1, 2):
        extractor = LayerExtractor(checkpoint, layer)
        frames = extract(extractor, speech)

        expected = run_whole_model(config, tensors, waveform, layer)

        torch.testing.assert_close(frames, expected, rtol=1e-4, atol=1e-5)
        assert frames.dtype == torch.float32
        assert frames.shape == (num_frames(len(speech)), 48)
        assert (extractor.stamp.layer, extractor.stamp.hop, extractor.stamp.dim) == (layer, 320, 48)


def test_windows_of_a_layer_hear_the_samples_of_their_frames(
    tmp_path: Path, speech: Waveform
) -> None:
    make_run(tmp_path / "run")
    extractor = LayerExtractor(read_encoder(tmp_path / "run"), 1)

    window = FrameWindow(20, 60)
    alone = speech[20 * 320 : 59 * 320 + 400]

    assert torch.equal(extract(extractor, speech, window), extract(extractor, alone))


def test_windows_are_no_longer_than_a_model_can_place(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", with_encoder(pos_encoder_type="rotary", max_seq_len=700))

    assert LayerExtractor(read_encoder(tmp_path / "a"), 1).max_num_frames == 5000
    assert LayerExtractor(read_encoder(tmp_path / "b"), 1).max_num_frames == 700
    assert MfccExtractor().max_num_frames == 10_000


CONFIGS = {
    "wav2vec2": micro_config(),
    "hubert": micro_hubert_config([5]),
    "wav2vec2_asr": fit_asr_config(micro_asr_config(), micro_config().encoder_config, 8),
}


def test_families_share_the_encoder_and_its_names(tmp_path: Path, speech: Waveform) -> None:
    tensors, frames = make_tensors(), {}

    for family in CONFIGS:
        write_run(tmp_path / family, tensors, CONFIGS[family], family)
        extractor = LayerExtractor(read_encoder(tmp_path / family), 2)

        assert extractor.stamp.family == family
        frames[family] = extract(extractor, speech)

    assert torch.equal(frames["wav2vec2"], frames["hubert"])
    assert torch.equal(frames["wav2vec2"], frames["wav2vec2_asr"])


def test_the_digest_tells_what_is_computed_and_not_how_it_was_stored(tmp_path: Path) -> None:
    def shuffle(tensors: dict[str, Tensor]) -> None:
        for name in reversed(list(tensors)):
            tensors[name] = tensors.pop(name)

    def change_encoder(tensors: dict[str, Tensor]) -> None:
        tensors["encoder.layers.1.ffn.inner_proj.bias"] += 1e-3

    def change_head(tensors: dict[str, Tensor]) -> None:
        tensors["final_proj.bias"] += 1.0

    def digest(name: str, config: Wav2Vec2Config | None = None, **more: object) -> str:
        make_run(tmp_path / name, config, **more)  # type: ignore[arg-type]

        return read_encoder(tmp_path / name).digest

    first = digest("a")

    assert digest("b", change=shuffle) == first
    assert digest("c", change=change_head) == first
    assert digest("d", with_encoder(dropout_p=0.3, layer_drop_p=0.2)) == first
    assert digest("e", change=change_encoder) != first
    assert digest("f", with_encoder(num_encoder_attn_heads=4)) != first

    # A file of tensors with the model.yaml beside it.
    (tmp_path / "g").mkdir()
    checkpoints = tmp_path / "a" / "checkpoints"
    tensors = checkpoints / "step_5" / "model" / "pp_00" / "tp_00" / "sdp_00.pt"
    (tmp_path / "g" / "model.yaml").write_bytes((checkpoints / "model.yaml").read_bytes())
    (tmp_path / "g" / "model.pt").write_bytes(tensors.read_bytes())

    assert read_encoder(tmp_path / "g" / "model.pt").digest == first


def test_checkpoints_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run)

    def assert_refused(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_encoder(path)

    assert_refused(tmp_path / "none", "none: there is no such checkpoint; correct the path")

    yaml = run / "checkpoints" / "model.yaml"
    content = yaml.read_text()

    yaml.write_text(content.replace("model_family: wav2vec2", "model_family: llama"))
    assert_refused(run, "model.yaml: is of the model family `llama`; only models of wav2vec2 or")

    yaml.write_text(content.replace("model_dim: 48", "model_dim: many"))
    assert_refused(run, "model.yaml: the configuration of the model cannot be read")

    yaml.write_text(content.replace("use_fbank: false", "use_fbank: true"))
    assert_refused(run, "run, step 5: does not make a frame of each 320 samples")


def test_a_step_of_what_is_one_checkpoint_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    step = checkpoints / "step_5"

    file = checkpoints / "model.pt"
    file.write_bytes((step / "model" / "pp_00" / "tp_00" / "sdp_00.pt").read_bytes())

    for path in (file, step, step / "model"):
        with pytest.raises(
            InputError, match=f"{path.name}: is one checkpoint, of which `--step` cannot choose; le"
        ):
            read_encoder(path, 5)

        read_encoder(path)

    for path in (tmp_path / "run", checkpoints):
        assert read_encoder(path, 5).family == "wav2vec2"


def test_layers_and_tensors_that_are_not_there_are_refused(
    tmp_path: Path, speech: Waveform
) -> None:
    make_run(tmp_path / "run")
    checkpoint = read_encoder(tmp_path / "run")

    with pytest.raises(InputError, match=r"`--layer` must be from 1 to 2, .* but is 3 instead"):
        LayerExtractor(checkpoint, 3)

    with pytest.raises(InputError, match="The device `abacus` cannot be used"):
        LayerExtractor(checkpoint, 1, "abacus")

    name = "encoder.layers.0.ffn.inner_proj.bias"
    fewer = {n: t for n, t in checkpoint.tensors.items() if n != name}
    with pytest.raises(InputError, match=f"run, step 5: has no tensor `{name}`, which such a"):
        LayerExtractor(replace(checkpoint, tensors=fewer), 1)

    shorter = {**checkpoint.tensors, name: checkpoint.tensors[name][:-1]}
    with pytest.raises(InputError, match="run, step 5: does not fit its configuration"):
        LayerExtractor(replace(checkpoint, tensors=shorter), 1)

    broken = {**checkpoint.tensors, name: torch.full_like(checkpoint.tensors[name], torch.nan)}
    extractor = LayerExtractor(replace(checkpoint, tensors=broken), 1)
    with pytest.raises(InputError, match="Layer 1 gives numbers that are not finite; take another"):
        extract(extractor, speech)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_a_directory_of_transformers_gives_the_frames_of_the_run(
    tmp_path: Path, speech: Waveform, family: str
) -> None:
    write_run(tmp_path / "run", make_tensors(), CONFIGS["wav2vec2"])
    (tmp_path / "hf").mkdir()
    write_transformers(tmp_path / "hf", load_export_source(tmp_path / "run"))

    # Their encoders have the same names and numbers.
    config = tmp_path / "hf" / "config.json"
    config.write_text(
        config.read_text().replace('"model_type": "wav2vec2"', f'"model_type": "{family}"')
    )

    ours, theirs = (read_encoder(tmp_path / name) for name in ("run", "hf"))

    assert theirs.family == family
    assert torch.equal(
        extract(LayerExtractor(ours, 2), speech), extract(LayerExtractor(theirs, 2), speech)
    )


def test_the_deepest_layer_needs_no_deeper_ones(tmp_path: Path, speech: Waveform) -> None:
    make_run(tmp_path / "run", micro_config())
    checkpoint = read_encoder(tmp_path / "run")

    first = {n: t for n, t in checkpoint.tensors.items() if not n.startswith("encoder.layers.1.")}
    extractor = LayerExtractor(replace(checkpoint, tensors=first), 1)

    assert torch.equal(extract(extractor, speech), extract(LayerExtractor(checkpoint, 1), speech))
