"""``eqssl export``: models in the formats of other programs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, positive_int

if TYPE_CHECKING:
    from eqssl_speech.export.job import ExportReport
    from eqssl_speech.export.loading import ExportSource

_EXPORT: Final = """\
Write a model in the format of another program, once that program computes the same with it: on real recordings, alone,
padded together, short and long, and with the same text for each if it is a recogniser. Prints the largest differences;
if one is too large, or anything goes wrong, OUT is not made. OUT/README.md is the model card: how the model is used,
what it was trained on and how, with the numbers of the run and of its evaluations.

CHECKPOINT is the directory of a run (of which the best step is taken) or of a step, a directory of Hugging Face
transformers, a .pt or .safetensors file of tensors (of fairseq, fairseq2, transformers or torchaudio), or the name of a
fairseq2 asset.

formats:
  hf          Hugging Face transformers: for AutoModel, Wav2Vec2ForPreTraining, Wav2Vec2ForCTC, HubertModel,
              HubertForCTC, and pipeline("automatic-speech-recognition")
  torchaudio  a state dict for torchaudio.models.wav2vec2_model, and the arguments that make the model
  onnx        model.onnx, with batches and lengths of any size and the normalisation of waveforms within; for a
              recogniser tokens.txt, and sherpa.onnx for sherpa-onnx
  fairseq2    an asset card with its tensors, which other programs on fairseq2 find by its name

examples:
  eqssl export runs/finetuned --to hf --out exported/hf
  eqssl export runs/finetuned --to hf --out exported/hf --evaluation evaluations/finetuned
  eqssl export runs/finetuned --to onnx --out exported/onnx --recordings talks/
  eqssl export runs/pretrained --step 500 --to torchaudio --out exported/torchaudio
  eqssl export wav2vec2_base --to fairseq2 --name my_base --out exported/my_base
"""


def add(commands: Any) -> None:
    """Add the command."""
    from eqssl_speech.export import TARGETS

    parser = add_command(commands, "export", _EXPORT, "models in the formats of other programs")

    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the model")
    parser.add_argument("--to", choices=TARGETS, required=True, help="the format")
    parser.add_argument("--out", metavar="OUT", type=Path, required=True, help="directory to make")
    parser.add_argument(
        "--step", metavar="N", type=positive_int, help="checkpoint of a run (default: the best)"
    )
    parser.add_argument(
        "--vocabulary",
        metavar="PATH",
        type=Path,
        help="labels of a recogniser: directory of a tokenizer, vocab.json of transformers, or dict.ltr.txt of fairseq "
        "(default: what is in or beside CHECKPOINT)",
    )
    parser.add_argument(
        "--recordings",
        metavar="PATH",
        nargs="+",
        help="files, folders or patterns to compare on; 20 are taken (default: the sample in the repository)",
    )
    parser.add_argument(
        "--name",
        help="name of the model on its card, and of the asset with --to fairseq2 (default: that of the directory)",
    )
    parser.add_argument(
        "--evaluation",
        metavar="DIR",
        type=Path,
        nargs="+",
        default=[],
        help="what `eqssl evaluate --out` has made of this model, for the model card",
    )
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from rich.console import Console

    from eqssl_speech.export.job import export_model, require_free
    from eqssl_speech.export.loading import load_export_source
    from eqssl_speech.export.parity import read_recordings
    from eqssl_speech.report.evaluation_facts import read_evaluation
    from eqssl_speech.tasks.transcribe.output import to_printable

    require_free(options.out)

    evaluations = [read_evaluation(path) for path in options.evaluation]
    source = load_export_source(
        options.checkpoint, step=options.step, vocabulary_file=options.vocabulary
    )
    recordings = read_recordings(options.recordings, source.sample_rate)

    with Console(stderr=True).status("starting") as status:
        report = export_model(
            source,
            options.to,
            options.out,
            recordings,
            name=options.name,
            evaluations=evaluations,
            on_progress=status.update,
        )

    _print_report(source, report, len(recordings))

    print(to_printable(f"Written: {options.out}"))

    return 0


def _print_report(source: ExportSource, report: ExportReport, num_recordings: int) -> None:
    from eqssl_speech.text.tables import render_table

    for what, names in (
        ("not a part of the model", source.unknown),
        ("left out, as the format has no place for them", report.left_out),
    ):
        if names:
            print(
                f"{len(names)} tensors are {what}: {', '.join(names[:4])}{', ...' * (len(names) > 4)}"
            )

    for name in source.checkpoint.guessed:
        value = getattr(source.checkpoint.encoder_config, name)

        print(f"CHECKPOINT does not say `{name}`: {value}, as in released models of its size.")

    rows = [["recordings", "seconds", "features", "logits"]]
    for comparison in report.parity.comparisons:
        logits = comparison.logits
        rows.append(
            [
                comparison.case,
                f"{comparison.duration_s:.1f}",
                f"{comparison.features:.1e}",
                "" if logits is None else f"{logits:.1e}",
            ]
        )

    print(render_table(rows, title="largest differences", left=("recordings",)))

    parity = report.parity

    if parity.texts:
        num_compared = num_recordings - parity.num_ties
        ties = f" ({parity.num_ties} more hang on rounding)" if parity.num_ties else ""

        print(
            f"The same text for {num_compared} recordings{ties}, "
            f"in {len(parity.texts) // num_compared} way(s) of recognising them."
        )
