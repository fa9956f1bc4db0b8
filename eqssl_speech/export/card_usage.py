"""How an exported model is used, for its card."""

from __future__ import annotations

from typing import Final

from eqssl_speech.export import Target
from eqssl_speech.export.loading import ExportSource
from eqssl_speech.export.onnx import SHERPA_FILE
from eqssl_speech.export.sherpa import SAMPLE_RATE
from eqssl_speech.models.wav2vec2 import expects_normalized_audio

_NORMALIZE: Final = """
waveform = (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-5).sqrt()"""

_HF_RECOGNIZER: Final = """\
```python
import soundfile
from transformers import pipeline

waveform, sample_rate = soundfile.read("speech.flac", dtype="float32")  # mono
recognise = pipeline("automatic-speech-recognition", model="{name}")
print(recognise({{"raw": waveform, "sampling_rate": sample_rate}})["text"])
```"""

_HF_ENCODER: Final = """\
```python
import soundfile
from transformers import AutoFeatureExtractor, AutoModel

waveform, sample_rate = soundfile.read("speech.flac", dtype="float32")  # {rate} Hz, mono
extractor = AutoFeatureExtractor.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}").eval()

inputs = extractor(waveform, sampling_rate=sample_rate, return_tensors="pt")
features = model(**inputs).last_hidden_state
```"""

_TORCHAUDIO: Final = """\
```python
import json
import torch
import soundfile
from safetensors.torch import load_file
from torchaudio.models import wav2vec2_model

model = wav2vec2_model(**json.load(open("{name}/model.json"))["arguments"])
model.load_state_dict(load_file("{name}/model.safetensors"))
model.eval()

waveform = torch.from_numpy(soundfile.read("speech.flac", dtype="float32")[0])[None]  # {rate} Hz, mono{normalize}
{output}, _ = model(waveform){note}
```"""

_ONNX: Final = """\
```python
import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession("{name}/model.onnx")
waveform, _ = soundfile.read("speech.flac", dtype="float32")  # {rate} Hz, mono; it is normalised within

# Of a batch, shorter waveforms are padded at the end; num_samples says where each ends, num_frames what is its own.
inputs = {{"waveforms": waveform[None], "num_samples": np.array([len(waveform)])}}
{output}, num_frames = session.run(["{output}", "num_frames"], inputs){note}
```"""

_SHERPA: Final = """

For [sherpa-onnx](https://k2-fsa.github.io/sherpa/onnx/):

```python
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
    model="{name}/{file}", tokens="{name}/tokens.txt"
)
stream = recognizer.create_stream()
waveform, sample_rate = soundfile.read("speech.flac", dtype="float32")
stream.accept_waveform(sample_rate, waveform)
recognizer.decode_stream(stream)
print(stream.result.text)
```"""

_FAIRSEQ2: Final = """\
```python
from pathlib import Path
from fairseq2 import init_fairseq2
from fairseq2.assets import get_asset_store
from fairseq2.models import load_model

init_fairseq2()  # with `FAIRSEQ2_ASSET_DIR` set to the directory that this one is in
model = load_model("{name}").eval()
```"""


def render_usage(target: Target, source: ExportSource, name: str) -> str:
    """Say how a model is used.

    :param target: The format that it was exported in.
    :param source: The model.
    :param name: What it is called, as its directory is: code works where that is in the current one.
    :returns: Markdown.
    """
    is_recognizer = source.vocabulary is not None
    rate = source.sample_rate

    if target == "hf":
        return (_HF_RECOGNIZER if is_recognizer else _HF_ENCODER).format(name=name, rate=rate)

    if target == "torchaudio":
        normalizes = expects_normalized_audio(source.checkpoint.encoder_config)

        return _TORCHAUDIO.format(
            name=name,
            rate=rate,
            normalize=_NORMALIZE if normalizes else "",
            output="logits" if is_recognizer else "features",
            note="  # of the labels in labels.txt" if is_recognizer else "",
        )

    if target == "onnx":
        return _render_onnx(source, name)

    return _FAIRSEQ2.format(name=name)


def _render_onnx(source: ExportSource, name: str) -> str:
    if source.vocabulary is None:
        return _ONNX.format(name=name, rate=source.sample_rate, output="features", note="")

    text = _ONNX.format(
        name=name,
        rate=source.sample_rate,
        output="logits",
        note="  # of the labels in tokens.txt, before softmax",
    )

    # The layout for sherpa-onnx is there at its sample rate only.
    if source.sample_rate != SAMPLE_RATE:
        return text

    return text + _SHERPA.format(name=name, file=SHERPA_FILE)
