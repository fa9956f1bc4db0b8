#!/usr/bin/env python3
"""How far the words of a CTM file of ``ru-festvox`` lie from where the corpus's own phone labels have them.

    .venv/bin/python -m eqssl_speech align RUN corpora/debian_speech --source ru-festvox --out ru.ctm
    .venv/bin/python tools/measure_alignment.py ru.ctm --cache corpora/debian_speech/.prepare
    .venv/bin/python tools/measure_alignment.py ru.ctm --labels .../msu_ru_nsh_clunits/lab --json ru.json

The labels are those of the Debian package festvox-ru (N. V. Shmyrev), `lab/NAME.lab`: a phone a line with its end, in
seconds. Nothing in the package says how they were made; they lie 10 ms apart, none is shorter than 30 ms, and
`etc/statenames` has three states per phone, which is what an automatic alignment with hidden Markov models gives. How
far they are off themselves is not known, so that a bias of some 10 ms may be theirs.

Where words begin and end in the labels: letters and phones become coarse classes (a vowel, or a consonant without
voicing and softness; `CLASSES`), so that reduction, devoicing and softening make no difference, and the two strings of
an utterance are aligned with the fewest edits (rapidfuzz). A border is used only if the classes right before and right
after it are matched with phones of the same class that follow each other. Where pauses stand between these, the word
before ends where the first begins, and the word after begins where the last ends. Begin and end of an utterance count
as borders too, if its first class is matched with the first phone, its last with the last. Over all 620 recordings,
with the texts of `etc/txt.done.data`, that uses 10130 of 10133 borders; 2220 of the 2221 pauses within an utterance
lie at one of them.

At a pause the two may mean different things: `eqssl align` widens a word by at most 60 ms into one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.table import Table

from eqssl_speech.data.corpora.packages import fetch_package
from eqssl_speech.decoding.alignment import Word
from eqssl_speech.error import InputError
from eqssl_speech.report.output import write_atomically
from eqssl_speech.tasks.align.ctm import read_ctm

PACKAGE: Final = "festvox-ru"

LABELS: Final = "usr/share/festival/voices/russian/msu_ru_nsh_clunits/lab"
"""Where the labels are in the package."""

PAUSE: Final = "pau"

CLASSES: Final = {
    "V": ("аоуыэи", "ii yy uu ee oo aa a e i y u ae ay ur"),
    "J": ("й", "j"),
    "P": ("бп", "b p"),
    "T": ("дт", "d t"),
    "K": ("гк", "g k"),
    "F": ("вф", "v f"),
    "S": ("зс", "z s"),
    "X": ("жшщ", "zh sh sch"),
    "H": ("х", "h"),
    "C": ("ц", "c"),
    "Q": ("ч", "ch"),
    "M": ("м", "m"),
    "N": ("н", "n"),
    "L": ("л", "l"),
    "R": ("р", "r"),
}
"""The letters and the phones of each class (`festvox/msu_ru_nsh_phoneset.scm`); a soft consonant is written twice."""

LETTERS: Final = {letter: name for name, (letters, _) in CLASSES.items() for letter in letters}

PHONES: Final = {
    spelling: name
    for name, (_, phones) in CLASSES.items()
    for phone in phones.split()
    for spelling in ((phone,) if name == "V" else (phone, 2 * phone))
}

UNKNOWN: Final = "?"
"""The class of what is no Russian letter, or not spoken alone; no phone has it."""

LIMITS_MS: Final = (20, 50, 100)
"""Of which distances the share is given that is not greater."""


@dataclass(frozen=True)
class Phone:
    """A phone of the labels."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class TimedWord:
    """Where a word is by the labels; ``None`` where they do not say."""

    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Distances:
    """How far borders lie from the labels; in milliseconds, positive where they are later."""

    used: int
    skipped: int
    """The borders whose place the labels do not tell."""

    median_ms: float
    """Of the absolute distances, like the next two."""

    mean_ms: float
    p90_ms: float

    bias_ms: float
    """The median with its sign."""

    within: dict[str, float]
    """The share of the absolute distances that are not greater than each of :data:`LIMITS_MS`."""


def main() -> int:
    """Measure; exit status 2 where the input cannot be used."""
    args = parse_args()

    try:
        if args.labels is not None:
            run(args, args.labels)
        elif args.cache is not None:
            run(args, fetch_package(PACKAGE, args.cache) / LABELS)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                run(args, fetch_package(PACKAGE, Path(scratch)) / LABELS)
    except InputError as ex:
        print(f"{Path(__file__).name}: {ex}", file=sys.stderr)

        return 2

    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ctm", metavar="CTM", type=Path, help="what `eqssl align` wrote")
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help="where packages are kept, such as CORPUS/.prepare (default: a temporary directory)",
    )
    parser.add_argument("--labels", metavar="DIR", type=Path, help="the labels, if unpacked")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was measured")

    return parser.parse_args()


def run(args: argparse.Namespace, labels: Path) -> None:
    """Measure, print and write.

    :raises InputError: If the CTM or a label file cannot be used, or there is nothing to compare.
    """
    utterances = read_ctm(args.ctm)

    starts_ms, ends_ms, without_labels = compare_all(utterances, labels)

    rows = {
        name: summarize(differences)
        for name, differences in (
            ("starts", starts_ms),
            ("ends", ends_ms),
            ("both", starts_ms + ends_ms),
        )
        if any(d is not None for d in differences)
    }

    if not rows:
        raise InputError(
            f"{args.ctm}: no word can be compared with the labels in {labels}; give a CTM of `ru-festvox`, whose "
            "utterances are named like audio/ru_0001.flac."
        )

    print_rows(rows, len(utterances) - len(without_labels))

    for name in without_labels:
        print(f"left out, as there are no labels: {name}", file=sys.stderr)

    if args.json is not None:
        report = {
            "ctm": str(args.ctm),
            "labels": str(labels),
            "utterances": len(utterances) - len(without_labels),
            "utterances_without_labels": without_labels,
            "borders": {name: asdict(row) for name, row in rows.items()},
        }
        write_atomically(args.json, (json.dumps(report, indent=2) + "\n").encode())


def compare_all(
    utterances: dict[str, list[Word]], labels: Path
) -> tuple[list[float | None], list[float | None], list[str]]:
    """Compare the words of all utterances with the labels.

    :param utterances: The words of each utterance, by its path in the manifest.
    :param labels: The directory of the labels.
    :returns: The start of each word less that of the labels, in milliseconds, or ``None`` where they do not tell it;
        the same of its end; and the utterances without labels.
    :raises InputError: If a label file is malformed.
    """
    starts_ms, ends_ms, without_labels = [], [], []

    for name, words in utterances.items():
        file = labels / f"{PurePosixPath(name).stem}.lab"

        # The times of a part of a file are not those of the file.
        if ":" in name or not file.is_file():
            without_labels.append(name)
            continue

        timed = find_words([word.text for word in words], read_labels(file))

        starts_ms += [subtract_ms(w.start_s, t.start_s) for w, t in zip(words, timed)]
        ends_ms += [subtract_ms(w.end_s, t.end_s) for w, t in zip(words, timed)]

    return starts_ms, ends_ms, without_labels


def subtract_ms(time_s: float, truth_s: float | None) -> float | None:
    """Return the difference in milliseconds, if there is one."""
    # Rounded, as both are given to the millisecond, and their difference may be a limit.
    return None if truth_s is None else round(1000.0 * (time_s - truth_s), 3)


def read_labels(file: Path) -> list[Phone]:
    """Read the phones of a recording, pauses among them.

    :param file: Lines ``end_s 125 phone`` after a line ``#``.
    :raises InputError: If the file cannot be read, a line is malformed, a phone unknown, or the times do not increase.
    """
    try:
        _, mark, content = file.read_text(encoding="utf-8").partition("#\n")
    except (OSError, UnicodeDecodeError) as ex:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({ex}); fetch it anew.") from None

    phones: list[Phone] = []
    last_s = 0.0

    for line in content.splitlines():
        try:
            time, _, name = line.split()
            end_s = float(time)
        except ValueError:
            raise InputError(f"{file}: `{line}` is not `end_s 125 phone`; fetch it anew.") from None

        if name not in PHONES and name != PAUSE:
            raise InputError(f"{file}: the phone `{name}` is unknown; fetch the file anew.")
        if not end_s > last_s:
            raise InputError(f"{file}: `{line}` does not end after {last_s} s; fetch it anew.")

        phones.append(Phone(name, last_s, end_s))
        last_s = end_s

    if not mark or not phones:
        raise InputError(f"{file}: has no line `#` with phones after it; fetch the file anew.")

    return phones


def classify(word: str) -> str:
    """Return the classes of the sounds that a word is written for.

    A vowel letter that softens is a ``J`` and a vowel at the begin of a word and after a vowel or a sign, otherwise a
    vowel. Of what is spoken otherwise than written, only what a border can depend on is minded: ``что`` is said with
    ``ш``, ``сч`` as ``щ``. Within a word the alignment bears with silent letters, ``-ого`` and ``-тся``.

    :param word: In lower case.
    """
    if word.startswith("сч"):
        word = "щ" + word[2:]
    elif word.startswith("что"):
        word = "ш" + word[1:]

    classes = ""

    for before, letter in zip(" " + word, word):
        if letter in "еёюя":
            classes += "JV" if before in " аоуыэиеёюяьъ" else "V"
        elif letter not in "ьъ":
            classes += LETTERS.get(letter, UNKNOWN)

    return classes or UNKNOWN


def find_words(words: Sequence[str], phones: Sequence[Phone]) -> list[TimedWord]:
    """Find where words begin and end in the labels.

    :param words: What is said, in lower case.
    :param phones: The labels, with pauses.
    :returns: One per word.
    """
    spoken = [phone for phone in phones if phone.name != PAUSE]
    classes = [classify(word) for word in words]

    heard = "".join(PHONES[phone.name] for phone in spoken)
    written = "".join(classes)

    matches = {
        block.a + i: block.b + i
        for block in Levenshtein.editops(written, heard).as_matching_blocks()
        for i in range(block.size)
    }

    # The ends of the utterance match each other, so that its begin and its end are borders like others.
    matches[-1], matches[len(written)] = -1, len(heard)

    borders = [0, *accumulate(map(len, classes))]

    # The phone that follows each border.
    found = [
        matches[b] if b in matches and matches.get(b - 1) == matches[b] - 1 else None
        for b in borders
    ]

    return [
        TimedWord(
            None if first is None else spoken[first].start_s,
            None if after is None else spoken[after - 1].end_s,
        )
        for first, after in pairwise(found)
    ]


def summarize(differences_ms: Sequence[float | None]) -> Distances:
    """Summarize differences, of which at least one is known."""
    known = np.array([d for d in differences_ms if d is not None])
    absolute = np.abs(known)

    return Distances(
        used=len(known),
        skipped=len(differences_ms) - len(known),
        median_ms=round(float(np.median(absolute)), 3),
        mean_ms=round(float(absolute.mean()), 3),
        p90_ms=round(float(np.quantile(absolute, 0.9)), 3),
        bias_ms=round(float(np.median(known)), 3),
        within={f"{limit}_ms": round(float((absolute <= limit).mean()), 4) for limit in LIMITS_MS},
    )


def print_rows(rows: dict[str, Distances], num_utterances: int) -> None:
    """Print the table."""
    table = Table(
        title=f"word borders of {num_utterances} utterances against the labels (ms)",
        caption="bias: positive where the CTM is later",
    )
    table.add_column("", no_wrap=True)

    limits = [f"<= {limit}" for limit in LIMITS_MS]
    for heading in ("used", "skipped", "median", "mean", "90 %", "bias", *limits):
        table.add_column(heading, justify="right", no_wrap=True)

    for name, row in rows.items():
        numbers = [f"{x:.0f}" for x in (row.median_ms, row.mean_ms, row.p90_ms)]
        shares = [f"{share:.1%}" for share in row.within.values()]

        table.add_row(
            name, f"{row.used}", f"{row.skipped}", *numbers, f"{row.bias_ms:+.0f}", *shares
        )

    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    sys.exit(main())
