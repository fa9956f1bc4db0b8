"""Models as ONNX, for onnxruntime and for sherpa-onnx.

A directory holds

- ``model.onnx``, which takes batches of recordings as they are, and returns features, the scores of the labels and the
  number of frames;
- for a recogniser ``tokens.txt``, its labels, and ``sherpa.onnx``, the same model as sherpa-onnx's
  ``OfflineRecognizer.from_omnilingual_asr_ctc`` takes it;
- ``model.weights``, the weights of both, which may be of any size; it has to be in the directory of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eqssl_speech.data.transcribed import pad_waveforms
from eqssl_speech.error import InputError
from eqssl_speech.export import sherpa
from eqssl_speech.export.model import Outputs, SpeechModel
from eqssl_speech.export.onnx_encoder import SpeechGraph
from eqssl_speech.export.onnx_graph import Graph, WeightFile, import_package
from eqssl_speech.export.vocabulary import Vocabulary

MODEL_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "model.weights"
TOKENS_FILE: Final = "tokens.txt"
SHERPA_FILE: Final = "sherpa.onnx"

_FATAL_ONLY: Final = 4
"""onnxruntime's level of messages; what goes wrong is raised as well."""


@torch.inference_mode()
def write_onnx(
    directory: Path,
    model: SpeechModel,
    vocabulary: Vocabulary | None,
    *,
    sample_rate: int,
    metadata: Mapping[str, str],
) -> None:
    """Write a model as ONNX. The same model gives the same bytes.

    ``model.onnx`` takes

    - ``waveforms``: as recorded, padded with anything to the longest. *Shape:* ``(N, S)``, float32;
    - ``num_samples``: the length of each. *Shape:* ``(N,)``, int64;

    and returns

    - ``features``: the output of the encoder. *Shape:* ``(N, T, M)``, float32;
    - ``logits``: of a recogniser, the scores of the labels before any softmax. *Shape:* ``(N, T, V)``, float32;
    - ``num_frames``: how many frames of each are its own. *Shape:* ``(N,)``, int64.

    :param directory: An empty directory.
    :param model: The model. It stays as it is, and may be one that
        :func:`~eqssl_speech.models.wav2vec2.accelerate` has been at.
    :param vocabulary: The labels of a recogniser.
    :param sample_rate: What the model takes, in Hz. Only with that of sherpa-onnx is there a ``sherpa.onnx``.
    :param metadata: What is to be read in the files, besides what they need.
    :raises InputError: If onnx is not installed, or something in the model cannot be exported, or the vocabulary does
        not fit the model or cannot be written.
    :raises ValueError: If a vocabulary is given for a model that has no output layer, or none for one that has.
    """
    _check_vocabulary(model, vocabulary)

    tokens = None if vocabulary is None else sherpa.format_tokens(vocabulary)

    metadata = {**metadata, "sample_rate": str(sample_rate)}

    with (directory / WEIGHTS_FILE).open("wb") as stream:
        weights = WeightFile(stream, WEIGHTS_FILE)
        graphs = {MODEL_FILE: _build_model(weights, model, vocabulary, metadata)}

        if vocabulary is not None and sample_rate == sherpa.SAMPLE_RATE:
            graphs[SHERPA_FILE] = _build_sherpa_model(weights, model, vocabulary, metadata)

    for name, content in graphs.items():
        (directory / name).write_bytes(content)

    if tokens is not None:
        (directory / TOKENS_FILE).write_bytes(tokens)


def _build_model(
    weights: WeightFile,
    model: SpeechModel,
    vocabulary: Vocabulary | None,
    metadata: Mapping[str, str],
) -> bytes:
    graph = Graph(weights)
    speech = SpeechGraph(graph, model)

    own = speech.find_own("waveforms", "num_samples")
    seqs = graph.op("Where", own, "waveforms", graph.number(0.0))

    if model.normalizes:
        seqs = speech.normalize(seqs, own, "num_samples")

    seqs = speech.extract(seqs)
    num_frames = speech.count_frames("num_samples", output="num_frames")

    seqs = speech.encode(seqs, speech.make_masks(seqs, num_frames), output="features")

    outputs: dict[str, Any] = {"features": (np.float32, ("N", "T", model.config.model_dim))}

    if vocabulary is not None:
        speech.classify(seqs, output="logits")
        outputs["logits"] = (np.float32, ("N", "T", len(vocabulary.pieces)))

        metadata = {
            **metadata,
            "vocab_size": str(len(vocabulary.pieces)),
            "blank_index": str(vocabulary.blank_index),
            "silent_indices": " ".join(map(str, sorted(vocabulary.silent_indices))),
        }

    return graph.finish(
        inputs={"waveforms": (np.float32, ("N", "S")), "num_samples": (np.int64, ("N",))},
        outputs={**outputs, "num_frames": (np.int64, ("N",))},
        metadata=metadata,
    )


def _build_sherpa_model(
    weights: WeightFile, model: SpeechModel, vocabulary: Vocabulary, metadata: Mapping[str, str]
) -> bytes:
    graph = Graph(weights)
    speech = SpeechGraph(graph, model)

    # It has been normalised when it comes here.
    seqs = "waveforms" if model.normalizes else speech.restore_level("waveforms")
    seqs = speech.encode(speech.extract(seqs), masks=None)

    sherpa.add_silence(graph, speech.classify(seqs), vocabulary, output="logits")

    vocab_size = len(vocabulary.pieces)

    return graph.finish(
        inputs={"waveforms": (np.float32, ("N", "S"))},
        outputs={"logits": (np.float32, ("N", "T", vocab_size))},
        metadata={**metadata, **sherpa.METADATA, "vocab_size": str(vocab_size)},
    )


def _check_vocabulary(model: SpeechModel, vocabulary: Vocabulary | None) -> None:
    if (model.final_proj is None) != (vocabulary is None):
        raise ValueError(
            "`vocabulary` must be given for a model with an output layer, and only for one."
        )

    if model.final_proj is None or vocabulary is None:
        return

    weight: Any = model.final_proj.weight
    num_labels = len(weight)

    if num_labels != len(vocabulary.pieces):
        raise InputError(
            f"The model has {num_labels} labels, but its vocabulary has {len(vocabulary.pieces)}; "
            "take the vocabulary that it was trained with."
        )


@final
class OnnxRunner:
    """Computes ``model.onnx`` by onnxruntime, on the CPU."""

    def __init__(self, directory: Path) -> None:
        """
        :param directory: What :func:`write_onnx` wrote.
        :raises InputError: If onnxruntime is not installed, or there is no such file.
        """
        onnxruntime = import_package("onnxruntime")

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY

        self._session = onnxruntime.InferenceSession(
            str(_find(directory, MODEL_FILE)), options, providers=["CPUExecutionProvider"]
        )

    def run(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Outputs:
        """Compute recordings; see :class:`~eqssl_speech.export.model.Runner`."""
        batch = pad_waveforms(waveforms, normalize=False)

        inputs = {
            "waveforms": batch.seqs.numpy(),
            "num_samples": np.asarray([len(waveform) for waveform in waveforms]),
        }

        names = [output.name for output in self._session.get_outputs()]
        outputs = dict(zip(names, self._session.run(names, inputs), strict=True))

        def cut(rows: npt.NDArray[np.float32]) -> list[Tensor]:
            lengths = outputs["num_frames"]

            return [torch.tensor(row[:n]) for row, n in zip(rows, lengths, strict=True)]

        return Outputs(
            cut(outputs["features"]), cut(outputs["logits"]) if "logits" in outputs else None
        )


@final
class SherpaRunner:
    """Transcribes by ``sherpa.onnx`` and sherpa-onnx, on the CPU."""

    def __init__(self, directory: Path) -> None:
        """
        :param directory: What :func:`write_onnx` wrote.
        :raises InputError: If sherpa-onnx is not installed, or there is no such file.
        """
        package = import_package("sherpa_onnx")

        self._recognizer = package.OfflineRecognizer.from_omnilingual_asr_ctc(
            model=str(_find(directory, SHERPA_FILE)), tokens=str(_find(directory, TOKENS_FILE))
        )

    def transcribe(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> list[str]:
        """Turn recordings into text by the best label of each frame.

        :param waveforms: As recorded, at 16 kHz. Of fewer than 400 samples sherpa-onnx makes no text, and says so on
            the standard error. *Shape:* ``(S,)`` each.
        :returns: The text of each. Its words are joined by single spaces; sherpa-onnx itself writes a space for each
            label that is one.
        """
        texts = []

        for waveform in waveforms:
            stream = self._recognizer.create_stream()
            stream.accept_waveform(sherpa.SAMPLE_RATE, waveform)

            self._recognizer.decode_stream(stream)

            texts.append(" ".join(stream.result.text.split()))

        return texts


def _find(directory: Path, name: str) -> Path:
    file = directory / name

    # Of one that is not there, sherpa-onnx ends the process.
    if not file.is_file():
        raise InputError(
            f"{directory}: holds no {name}; give what `eqssl export --to onnx` has made"
            f"{f' of a recogniser for {sherpa.SAMPLE_RATE} Hz' if name != MODEL_FILE else ''}."
        )

    return file
