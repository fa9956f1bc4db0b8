"""``eqssl align``: when each word of a corpus's texts is said."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, add_jobs
from eqssl_speech.cli.recognition import add_emission, load_emission
from eqssl_speech.cli.references import load_references, print_left_out
from eqssl_speech.error import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eqssl_speech.tasks.align.align import AlignedUtterance, Alignment, AlignmentJob

_ALIGN: Final = """\
Place the texts of a corpus in time (forced alignment): when each word is said, and how sure the model is of it. The
texts are written as the model's tokenizer writes them; nothing is recognised.

The output is CTM, a line `utterance channel start duration word confidence` per word, utterances in the order of the
manifests. Times are in seconds from the begin of the utterance; the channel is always 1; the confidence is that of the
word's least sure label, from 0 to 1. The name of an utterance is its path in the manifest, with `:offset:length` where
it is a part of a file, and `SOURCE/` before it unless one source alone is asked for, or the corpus has but one. As a
name in CTM must have no space, white space, `%` and `;` are percent-encoded in it: a space is written %20.

Utterances without text, that cannot be read, with characters that the model does not know, or that are too short for
their labels are named, counted and left out.

examples:
  eqssl align runs/finetuned corpus --out test.ctm
  eqssl align runs/finetuned corpus --split valid --source ru-festvox --out ru.ctm
  eqssl align runs/finetuned corpus --split train --out train.ctm --overwrite --device cuda
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "align", _ALIGN, "when each word of a corpus's texts is said")

    parser.add_argument("model", metavar="MODEL", type=Path, help="directory of a fine-tuning run")
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument("--split", default="test", help="split to align (default: test)")
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="align this source; may be given several times (default: all that have the split)",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="file to write, such as test.ctm"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="write the file again if it exists already"
    )
    add_emission(parser)
    add_jobs(parser)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.tasks.align.align import AlignmentJob
    from eqssl_speech.tasks.align.ctm import write_ctm
    from eqssl_speech.tasks.transcribe.output import make_directory

    # What can fail fails before hours of work.
    _require_free(options.out, overwrite=options.overwrite)
    make_directory(options.out.parent)

    recognizer, emission_options = load_emission(options)
    references = load_references(options, options.split, recognizer)

    alignment = _align(AlignmentJob(references, recognizer, emission_options))

    write_ctm(options.out, ((u.name, u.words) for u in alignment.utterances))

    _print_end(alignment, options.out)

    return 0


def _require_free(file: Path, *, overwrite: bool) -> None:
    if file.is_dir():
        raise InputError(
            f"{file}: is a directory; give the file to write, such as {file / 'test.ctm'}."
        )

    # Written in one move, the file would take the place of a device.
    if file.exists() and not file.is_file():
        raise InputError(f"{file}: is no regular file; give the file to write, such as test.ctm.")

    if file.exists() and not overwrite:
        raise InputError(
            f"{file}: exists already; give another `--out`, or `--overwrite` to write it again."
        )


def _align(job: AlignmentJob) -> Alignment:
    from eqssl_speech.cli.audio_progress import show_audio_progress

    with show_audio_progress(job.num_utterances, job.audio_s) as progress:

        def advance(audio_s: float) -> None:
            progress.advance(audio_s)
            progress.finish_recording()

        return job.run(on_progress=advance)


def _print_end(alignment: Alignment, out: Path) -> None:
    from eqssl_speech.tasks.transcribe.output import to_printable
    from eqssl_speech.text.tables import render_table

    print_left_out(alignment.left_out, alignment.left_out_sources, len(alignment.utterances))

    by_source: dict[str, list[AlignedUtterance]] = {}
    for utterance in alignment.utterances:
        by_source.setdefault(utterance.reference.source, []).append(utterance)

    rows = [["source", "utterances", "words", "minutes", "mean confidence"]]
    rows += [_make_row(name, utterances) for name, utterances in by_source.items()]
    if len(by_source) > 1:
        rows.append(_make_row("all", alignment.utterances))

    print(render_table(rows, title="aligned", left=("source",)))
    print(to_printable(f"Written: {out}"))


def _make_row(name: str, utterances: Sequence[AlignedUtterance]) -> list[str]:
    confidences = [word.confidence for u in utterances for word in u.words]
    minutes = sum(u.duration_s for u in utterances) / 60.0

    return [
        name,
        f"{len(utterances)}",
        f"{len(confidences)}",
        f"{minutes:.1f}",
        f"{sum(confidences) / len(confidences):.3f}",
    ]
