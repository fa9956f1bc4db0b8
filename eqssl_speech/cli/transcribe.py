"""``eqssl transcribe``: text for recordings."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, add_jobs
from eqssl_speech.cli.recognition import add_recognition, load_recognition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eqssl_speech.cli.audio_progress import AudioProgress
    from eqssl_speech.tasks.transcribe.output import OutputPlan
    from eqssl_speech.tasks.transcribe.result import Transcript
    from eqssl_speech.tasks.transcribe.transcribe import Failure

_TRANSCRIBE: Final = """\
Recognise recordings: files, folders (searched at any depth) and patterns. Any sample rate and any number of channels
will do; long recordings are cut into overlapping windows whose outputs are joined, so that no word is cut.

Text goes to the standard output, a line `path<TAB>text` per recording (`--format json`: a line of JSON), or, with
`--out`, to one file per recording and format. Outputs that exist are kept, so that an interrupted run goes on when it
is started again. A recording that cannot be read is named and left out; the exit status is then 1.

examples:
  eqssl transcribe runs/finetuned talk.mp3
  eqssl transcribe runs/finetuned recordings --out texts --format txt --format srt
  eqssl transcribe runs/finetuned 'archive/**/*.flac' --format json > all.jsonl
  eqssl transcribe runs/finetuned talk.mp3 --lm news.bin --device cuda
"""

_FORMATS: Final = ("txt", "json", "srt", "vtt")


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "transcribe", _TRANSCRIBE, "text for recordings")

    parser.add_argument("model", metavar="MODEL", type=Path, help="directory of a fine-tuning run")
    parser.add_argument(
        "inputs", metavar="FILES", nargs="+", help="recordings, folders, or quoted patterns"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where files are written")
    parser.add_argument(
        "--format",
        action="append",
        choices=_FORMATS,
        help="what is written; may be given several times with --out (default: txt)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="write outputs again that exist already"
    )
    parser.add_argument(
        "--language",
        metavar="XX",
        help="language of the recordings: must be one of the model's, and is noted in JSON",
    )
    add_recognition(parser)
    add_jobs(parser)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.cli.audio_progress import show_audio_progress
    from eqssl_speech.tasks.transcribe.inputs import find_inputs
    from eqssl_speech.tasks.transcribe.output import OutputPlan
    from eqssl_speech.tasks.transcribe.transcribe import open_recordings, transcribe

    start = monotonic()

    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that cannot show a letter must not end the work.
        sys.stdout.reconfigure(errors="backslashreplace")

    plan = OutputPlan(options.out, tuple(options.format or ["txt"]), overwrite=options.overwrite)
    inputs = find_inputs(options.inputs)
    pending = plan.list_pending(inputs.files)

    if not pending:
        _print_end(_Tally(num_skipped=len(inputs.files)), inputs.num_others, 0.0, start)

        return 0

    recognition = load_recognition(options)
    if options.language is not None:
        # Refuses a language that the model does not know.
        recognition.recognizer.tokenizer.normalize("", options.language)

    recordings = open_recordings(pending, recognition.recognizer, options.jobs)

    with show_audio_progress(len(pending), recordings.duration_s) as progress:
        results = transcribe(
            recordings,
            recognition.recognizer,
            recognition.search,
            recognition.options,
            on_progress=progress.advance,
        )

        notes = {
            "language": options.language,
            "model": recognition.recognizer.description,
            "decoding": recognition.search.description,
        }

        tally = _deliver(results, plan, notes, progress)

    tally.num_skipped = len(inputs.files) - len(pending)

    _print_end(tally, inputs.num_others, recordings.duration_s, start)

    return 1 if tally.num_failed else 0


@dataclass
class _Tally:
    num_done: int = 0
    num_without_words: int = 0
    num_failed: int = 0
    num_skipped: int = 0


def _deliver(
    results: Iterable[Transcript | Failure],
    plan: OutputPlan,
    notes: dict[str, str | None],
    progress: AudioProgress,
) -> _Tally:
    from eqssl_speech.tasks.transcribe.output import to_printable
    from eqssl_speech.tasks.transcribe.transcribe import Failure

    tally = _Tally()

    for result in results:
        if isinstance(result, Failure):
            tally.num_failed += 1
            message = to_printable(f"failed ({result.error.reason}): {result.error}")
            print(message, file=sys.stderr)
        else:
            tally.num_done += 1
            tally.num_without_words += not result.words

            line = plan.deliver(result, notes)
            if line is not None:
                print(line, flush=True)

        progress.finish_recording()

    return tally


def _print_end(tally: _Tally, num_others: int, audio_s: float, start: float) -> None:
    from eqssl_speech.cli.audio_progress import format_duration

    took = f"{format_duration(audio_s)} of audio in {format_duration(monotonic() - start)}"
    parts = [f"{tally.num_done} transcribed ({took})"]

    for count, what in (
        (tally.num_without_words, "of them without a word"),
        (tally.num_skipped, "skipped, as their outputs exist (`--overwrite` redoes them)"),
        (tally.num_failed, "failed"),
        (num_others, "other files in the folders, not named like audio"),
    ):
        if count:
            parts.append(f"{count} {what}")

    print(f"{'; '.join(parts)}.", file=sys.stderr)
