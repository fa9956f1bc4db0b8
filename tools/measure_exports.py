#!/usr/bin/env python3
"""How far exported models are from ours: families and shapes x formats, on recordings of the sample.

    .venv/bin/python tools/measure_exports.py                                     # random weights, true shapes
    .venv/bin/python tools/measure_exports.py --shapes base --families wav2vec2
    .venv/bin/python tools/measure_exports.py runs/asr runs/hubert --recordings 20      # these instead

Each cell is the largest absolute difference over recordings alone, padded together, of 0.2 s and of 30 s: of the
encoder's output and, for recognisers, of the labels' scores, with how many texts were compared and found the same
(greedy in the library itself, and by transformers' pipeline or sherpa-onnx). A format that has no such model says so.
Random weights are those that training begins with, their biases and norms drawn as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console

from eqssl_speech.error import InputError
from eqssl_speech.export import TARGETS, Target
from eqssl_speech.export.job import ParityError, export_model
from eqssl_speech.export.loading import ExportSource, load_export_source, make_export_source
from eqssl_speech.export.parity import Waveform, read_recordings
from eqssl_speech.models.formats.names import Family
from eqssl_speech.models.hubert import config as hubert
from eqssl_speech.models.opening import make_model
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tables import render_table
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer

FAMILIES: Final[tuple[Family, ...]] = ("wav2vec2", "hubert", "wav2vec2_asr")

SHAPES: Final = ("base", "large", "conformer")

WRONG: Final = "WRONG"
"""What stands in a cell where the two differ by more than the tolerance; the exit status is 1 then."""

_SAMPLE_RATE: Final = 16_000


def main() -> int:
    """Measure, and print the table."""
    options = _parse_options()

    recordings = read_recordings(None, _SAMPLE_RATE)
    recordings = recordings[:: max(1, len(recordings) // options.recordings)][: options.recordings]

    rows = [["model", "parameters", *options.formats]]

    with Console(stderr=True).status("starting") as status:
        for name, source in _list_sources(options):
            num_parameters = sum(p.numel() for p in source.module.parameters())
            cells = []

            for target in options.formats:
                status.update(f"{name} to {target}")
                cells.append(_measure(source, target, recordings))

            rows.append([name, f"{num_parameters / 1e6:.1f} M", *cells])

    title = f"features / scores of labels, and equal texts ({len(recordings)} recordings)"

    print(render_table(rows, title=title, left=("model",)))

    return 1 if any(WRONG in row for row in rows) else 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="*", help="trained models")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--formats", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--recordings", type=int, default=4, metavar="N", help="1 to 20")

    options = parser.parse_args()

    if not 1 <= options.recordings <= 20:
        parser.error(f"`--recordings` must be from 1 to 20, but is {options.recordings} instead.")

    return options


def _list_sources(options: argparse.Namespace) -> Iterator[tuple[str, ExportSource]]:
    for checkpoint in options.checkpoints:
        yield Path(checkpoint).name, load_export_source(checkpoint)

    if options.checkpoints:
        return

    for family in options.families:
        for shape in options.shapes:
            yield f"{family} {shape}", _make_source(family, shape)


def _make_source(family: Family, shape: str) -> ExportSource:
    torch.manual_seed(1)

    encoder_config = _make_encoder_config(shape)
    tokenizer = _make_tokenizer() if family == "wav2vec2_asr" else None
    config: Any

    if tokenizer is not None:
        config = fit_asr_config(micro_asr_config(), encoder_config, tokenizer.vocab_size)
    elif family == "hubert":
        config = replace(hubert.base_config(), encoder_config=encoder_config)
    else:
        config = replace(micro_config(), encoder_config=encoder_config)

    tensors = dict(make_model(family, config).state_dict())
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensors[name] = tensor + 0.1 * torch.randn_like(tensor)

    return make_export_source(
        SpeechCheckpoint(f"random {family} {shape}", family, config, tensors, None, None), tokenizer
    )


def _make_encoder_config(shape: str) -> Any:
    if shape == "large":
        return hubert.large_config().encoder_config

    config = hubert.base_config().encoder_config

    if shape == "conformer":
        return replace(
            config, use_conformer=True, pos_encoder_type="relative", depthwise_conv_kernel_size=31
        )

    return config


def _make_tokenizer() -> CtcTokenizer:
    lines = ["съешь ещё этих мягких французских булок да выпей чаю"] * 4

    return train_tokenizer({TrainedSource("ru", "ru", 4): lines}, {"ru": make_rules("ru")})


def _measure(source: ExportSource, target: Target, recordings: Sequence[Waveform]) -> str:
    with tempfile.TemporaryDirectory() as directory:
        try:
            report = export_model(source, target, Path(directory) / "out", recordings)
        except ParityError as ex:
            print(f"{source.checkpoint.source} to {target}: {ex}", file=sys.stderr)

            return WRONG
        except InputError as ex:
            print(f"{source.checkpoint.source} to {target}: {ex}", file=sys.stderr)

            return "refused"

    # What transformers prepares in its own way is not the model's difference.
    comparisons = [c for c in report.parity.comparisons if not c.case.endswith("prepared by it")]

    cell = f"{max(c.features for c in comparisons):.1e}"

    if any(c.logits is not None for c in comparisons):
        cell += f" / {max(c.logits or 0.0 for c in comparisons):.1e}"

    if report.parity.texts:
        num_same = sum(ours == theirs for ours, theirs in report.parity.texts)
        cell += f", {num_same}/{len(report.parity.texts)}"

    return cell


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as ex:
        sys.exit(f"measure_exports.py: {ex}")
