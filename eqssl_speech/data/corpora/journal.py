"""What is known of a source's recordings, kept on disk while the work goes on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import final

from eqssl_speech.data.corpora.convert import Outcome
from eqssl_speech.data.manifest import replace_text


@final
class Journal:
    """One line per recording, appended after its file is complete.

    A program that was killed goes on where it stopped: a line that was cut off is ignored, and so is a journal of other
    packages or filters.
    """

    def __init__(self, file: Path, fingerprint: str) -> None:
        """
        :param file: the journal.
        :param fingerprint: of everything that the outcomes depend on.
        """
        self._file = file
        self._header = f"# {fingerprint}\n"

    def read(self) -> dict[str, Outcome]:
        """Read the outcomes so far, by name of the recording."""
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        if not text.startswith(self._header):
            return {}
        lines = text[: text.rfind("\n")].split("\n")[1:]
        fields = (line.split("\t") for line in lines)
        return {f[0]: Outcome(f[0], int(f[1]), f[2], f[3], f[4]) for f in fields if len(f) == 5}

    def append(self, outcome: Outcome) -> None:
        """Add an outcome; :meth:`rewrite` must have been called before."""
        with self._file.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(_format_outcome(outcome))

    def rewrite(self, outcomes: Iterable[Outcome]) -> None:
        """Write the journal anew, sorted, in one piece."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        rows = sorted(outcomes, key=lambda outcome: outcome.clip_id)
        replace_text(self._file, self._header + "".join(map(_format_outcome, rows)))


def _format_outcome(outcome: Outcome) -> str:
    message = " ".join(outcome.message.split())
    columns = (outcome.clip_id, outcome.num_samples, outcome.digest, outcome.fault, message)
    return "\t".join(map(str, columns)) + "\n"
