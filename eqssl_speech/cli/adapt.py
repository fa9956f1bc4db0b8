"""``eqssl adapt``: how steps on one source change the loss of a pre-trained model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from eqssl_speech.cli.common import add_command, add_conversions, add_limits, positive_int
from eqssl_speech.cli.recognition import choose_device, positive_float

_ADAPT: Final = """\
Take steps of gradient descent on the training split of one source, and measure the loss on its validation split after
each; then put the model back and go on with the next source. The loss is the one that the model was pre-trained with,
on the same masks and distractors after each step and for each model, so that runs can be compared: what does the model
know of a language, heard or unheard, and what does it learn of it in a few steps?

With `--out`, writes adaptation.json and adaptation.png.

examples:
  eqssl adapt runs/mine corpus
  eqssl adapt runs/mine corpus --source ro-tuxpaint --source fr-tuxpaint --steps 10 --lr 0.1 --out adapted/mine
  eqssl labels corpus labels/unheard --codebook labels/mfcc --source ro-tuxpaint
  eqssl adapt runs/hubert corpus --source ro-tuxpaint --labels labels/unheard
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "adapt", _ADAPT, "what steps on one source do to its loss")

    parser.add_argument(
        "model", metavar="MODEL", help="run or step of ours, or what else `pretrained` takes"
    )
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="adapt to this source; may be given several times (default: all)",
    )
    parser.add_argument(
        "--labels", metavar="DIR", type=Path, help="labels of the sources, for HuBERT"
    )
    parser.add_argument(
        "--steps",
        metavar="K",
        type=positive_int,
        default=20,
        help="steps of gradient descent (default: 20)",
    )
    parser.add_argument(
        "--lr", metavar="X", type=positive_float, default=0.03, help="their size (default: 0.03)"
    )
    parser.add_argument(
        "--batch-seconds",
        metavar="S",
        type=positive_float,
        default=16.0,
        help="audio of a batch (default: 16)",
    )
    parser.add_argument(
        "--batches",
        metavar="N",
        type=positive_int,
        default=3,
        help="validation batches of a source, of recordings of all lengths (default: 3)",
    )
    add_conversions(parser)
    # What can be masked.
    add_limits(parser, "1.0, as in pre-training", least_audio_s=0.62)
    parser.add_argument(
        "--step", metavar="N", type=positive_int, help="checkpoint of a run (default: the best)"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu or cuda (default: cuda where there is one)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where files are written")
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from rich.console import Console

    from eqssl_speech.report.adaptation import render_curves, write_adaptation
    from eqssl_speech.tasks.adapt.adapt import AdaptationJob, AdaptationOptions
    from eqssl_speech.tasks.recognizer import open_device

    how = AdaptationOptions(options.steps, options.lr, options.batch_seconds, options.batches)

    job = AdaptationJob(
        options.model,
        options.corpus,
        options.source,
        options.labels,
        how,
        recordings={
            "resample": options.resample,
            "downmix": options.downmix,
            "max_bad_share": options.max_bad_share,
        }
        | ({} if options.min_audio_s is None else {"min_audio_s": options.min_audio_s}),
        step=options.step,
        device=open_device(choose_device(options.device)),
    )

    with Console(stderr=True).status("starting") as status:
        curves = job.run(status.update)

    print(render_curves(curves))

    if options.out is not None:
        files = write_adaptation(options.out, job.checkpoint.source, how, curves)

        print(f"Written: {files[0]} and {files[1]}")

    return 0
