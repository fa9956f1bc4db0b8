"""The files and lines that transcripts become: text, JSON with the times of words, SubRip and WebVTT subtitles."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

from eqssl_speech.error import InputError
from eqssl_speech.report.output import write_atomically
from eqssl_speech.tasks.transcribe.inputs import InputFile, require_distinct_outputs
from eqssl_speech.tasks.transcribe.result import Transcript
from eqssl_speech.tasks.transcribe.subtitles import make_cues, render_subtitles

OutputFormat: TypeAlias = Literal["txt", "json", "srt", "vtt"]

OUTPUT_FORMATS: Final[tuple[OutputFormat, ...]] = ("txt", "json", "srt", "vtt")


def to_printable(text: str) -> str:
    """Return a file's name, or a message that holds one, as one line that can be printed, whatever its bytes are."""
    readable = os.fsencode(text).decode("utf-8", "replace")

    return "".join(char if char.isprintable() else "\ufffd" for char in readable)


def to_line(transcript: Transcript, fmt: OutputFormat, notes: Mapping[str, str | None]) -> str:
    """Return a transcript as one line: ``path<TAB>text``, or JSON.

    :param transcript: The transcript.
    :param fmt: ``txt`` or ``json``.
    :param notes: What else the JSON says.
    """
    if fmt == "json":
        return json.dumps(to_record(transcript, notes), ensure_ascii=False)

    return f"{to_printable(str(transcript.file.path))}\t{transcript.text}"


def to_record(transcript: Transcript, notes: Mapping[str, str | None]) -> dict[str, object]:
    """Return what is written as JSON.

    :param transcript: The transcript.
    :param notes: What else is to be said of it, such as the model.
    """
    words = [
        {
            "word": word.text,
            "start_s": round(word.start_s, 3),
            "end_s": round(word.end_s, 3),
            "confidence": round(word.confidence, 4),
        }
        for word in transcript.words
    ]

    confidence = transcript.confidence

    return {
        "file": to_printable(str(transcript.file.path)),
        "duration_s": round(transcript.duration_s, 3),
        **notes,
        "text": transcript.text,
        "confidence": None if confidence is None else round(confidence, 4),
        "words": words,
    }


def render(transcript: Transcript, fmt: OutputFormat, notes: Mapping[str, str | None]) -> str:
    """Return the content of an output file.

    :param transcript: The transcript.
    :param fmt: The format.
    :param notes: What else the JSON says.
    """
    if fmt == "txt":
        return transcript.text + "\n"
    if fmt == "json":
        return json.dumps(to_record(transcript, notes), indent=1, ensure_ascii=False) + "\n"

    return render_subtitles(make_cues(transcript.words), fmt)


@final
class OutputPlan:
    """Where transcripts go: to files, or a line each to whoever asks."""

    def __init__(
        self, directory: Path | None, formats: Sequence[OutputFormat], *, overwrite: bool
    ) -> None:
        """
        :param directory: Where files are written; ``None`` for lines.
        :param formats: The formats, at least one. Lines have one, which is ``txt`` or ``json``.
        :param overwrite: Whether files that exist are written again.
        :raises InputError: If the formats cannot be lines, or the directory cannot be made.
        """
        self._directory = directory
        self._formats = tuple(dict.fromkeys(formats))
        self._overwrite = overwrite

        if directory is None:
            _require_lines(self._formats)
        else:
            make_directory(directory)

    def list_pending(self, files: Sequence[InputFile]) -> list[InputFile]:
        """Return the recordings whose outputs do not all exist.

        :param files: The recordings.
        :raises InputError: If two of them have the same output.
        """
        if self._directory is not None:
            require_distinct_outputs(files, self._directory, self._formats[0])

        return [file for file in files if self._directory is None or self._list_missing(file)]

    def deliver(self, transcript: Transcript, notes: Mapping[str, str | None]) -> str | None:
        """Write the files of a transcript that do not exist, each in one piece.

        :param transcript: The transcript.
        :param notes: What else the JSON says, such as the model.
        :returns: Its line, without the end, where no directory was given.
        :raises InputError: If a file cannot be written.
        """
        if self._directory is None:
            return to_line(transcript, self._formats[0], notes)

        for file, fmt in self._list_missing(transcript.file):
            make_directory(file.parent)

            write_atomically(file, render(transcript, fmt, notes).encode("utf-8"))

        return None

    def _list_missing(self, file: InputFile) -> list[tuple[Path, OutputFormat]]:
        assert self._directory is not None

        outputs = [(file.output_file(self._directory, fmt), fmt) for fmt in self._formats]

        return [(path, fmt) for path, fmt in outputs if self._overwrite or not path.exists()]


def _require_lines(formats: Sequence[OutputFormat]) -> None:
    if len(formats) != 1 or formats[0] not in ("txt", "json"):
        raise InputError(
            f"{' and '.join(f'`--format {fmt}`' for fmt in formats)} need files to be written to, so give `--out DIR`; "
            "without it, either `txt` or `json` goes to the standard output, a line per recording."
        )


def make_directory(directory: Path) -> None:
    """Make a directory for outputs, and those that it lies in.

    :param directory: The directory; it may exist.
    :raises InputError: If it cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as ex:
        raise InputError(
            f"{directory}: the directory cannot be made ({ex.strerror}); give another `--out`."
        ) from None

    if not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(
            f"{directory}: the directory cannot be written to; give another `--out`, or change its permissions."
        )
