"""Word n-grams of a text, estimated by an existing tool.

Two tools are known, and the first one that is there is taken:

* ``lmplz`` of KenLM, if it is on the PATH: interpolated modified Kneser-Ney smoothing, in C++, for text of any size.
* ``kaldingram`` of the Next-gen Kaldi team, which the extra ``lm`` installs: pure Python, as SRILM's
  ``ngram-count -ukndiscount``, for up to some ten million words. It gives no probability to words that the text lacks;
  as a line ``<unk>`` is put into its text, an unknown word is as probable as one that is seen once. Where a text is
  too short for its discounts (no n-gram occurs twice: 1, which would forbid all that is seen), it is given others.

The perplexities of their trigrams on the validation texts of 15 sources (600 to 12 000 words of training text, see
recipes/debian_speech) differ by 3 % in the median, either way round, and by a third on one of the shortest.

MITLM, inside the wheel of ``phonetisaurus``, is left out: it needs a system library that the wheel lacks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, final

from eqssl_speech.decoding.ngram import INSTALL, UNKNOWN_WORD, NGram, silenced_stderr
from eqssl_speech.error import InputError

MIN_ORDER: Final = 2
"""The smallest order; KenLM does not load a unigram."""

MAX_ORDER: Final = 5
"""The largest order that every tool estimates."""

_DISCOUNT_FALLBACK: Final = 0.5
"""What is taken off a count of one where it cannot be estimated, as by ``lmplz --discount_fallback``."""

_MIN_DISCOUNT: Final = 0.1
"""What is taken off at least: kaldingram's own choice where nothing occurs once or twice."""

_RESERVED: Final = frozenset({"<s>", "</s>", UNKNOWN_WORD})


@final
@dataclass(frozen=True)
class Estimator:
    """A tool that makes an n-gram."""

    name: str
    """Its name, and its version where it has one."""

    run: Callable[[Path, Path, int], None]
    """Makes an n-gram of a text: from one file to another, of an order."""

    extra_lines: tuple[str, ...] = ()
    """What the text needs beside its own lines."""


@final
@dataclass(frozen=True)
class BuiltNGram:
    """An n-gram that was made."""

    file: Path
    """The n-gram, in the ARPA format."""

    estimator: str
    """The tool that made it."""

    num_sentences: int
    """The lines that it was made of."""

    num_words: int
    """The words of these lines."""

    num_ngrams: tuple[int, ...]
    """Its entries of each order, the first being that of single words."""


def find_estimator() -> Estimator:
    """Find a tool on this machine; see the head of this file.

    :returns: The first one that is there.
    :raises InputError: If there is none.
    """
    if lmplz := shutil.which("lmplz"):
        return Estimator("lmplz", partial(_run_lmplz, lmplz))

    if find_spec("kaldingram") is not None:
        try:
            name = f"kaldingram {version('kaldingram')}"
        except PackageNotFoundError:
            name = "kaldingram"

        return Estimator(name, _run_kaldingram, (UNKNOWN_WORD,))

    raise InputError(
        "no tool that estimates n-grams is installed; install one with "
        f"`{INSTALL}`, or put KenLM's `lmplz` on the PATH."
    )


def build_ngram(
    sentences: Iterable[Sequence[str]], out: Path, *, order: int = 3
) -> tuple[BuiltNGram, NGram]:
    """Estimate an n-gram and write it.

    :param sentences: The words of each sentence; sentences without words are left out.
    :param out: The file to write, in the ARPA format, in one piece.
    :param order: The words that are looked at together, from 2 to 5.
    :returns: What was made, and the n-gram as KenLM loads it.
    :raises InputError: If there is no text, a word is one of the n-gram's own marks, no tool is installed, or the
        n-gram cannot be made or loaded.
    """
    if not MIN_ORDER <= order <= MAX_ORDER:
        raise InputError(
            f"the order of an n-gram must be from {MIN_ORDER} to {MAX_ORDER}, but is {order} instead; choose another."
        )

    lines = [words for words in sentences if words]
    _validate(lines)

    estimator = find_estimator()

    with tempfile.TemporaryDirectory(prefix="eqssl-lm-") as scratch:
        text, arpa = Path(scratch, "text"), Path(scratch, "lm.arpa")

        written = [" ".join(words) for words in lines] + list(estimator.extra_lines)
        text.write_text("".join(f"{line}\n" for line in written), encoding="utf-8", newline="\n")

        estimator.run(text, arpa, order)

        ngram = NGram(arpa)
        num_ngrams = _read_counts(arpa)

        _move(arpa, out)

    built = BuiltNGram(out, estimator.name, len(lines), sum(map(len, lines)), num_ngrams)

    return built, ngram


def _validate(lines: Sequence[Sequence[str]]) -> None:
    if not lines:
        raise InputError("there is no text to make an n-gram of; give a text with at least a word.")

    for line in lines:
        for word in line:
            if word in _RESERVED or not word or re.search(r"\s", word):
                raise InputError(
                    f"the word {word!r} in `{' '.join(line)}` cannot stand in an n-gram, as it is one of its own "
                    "marks, empty, or has white space in it; remove it from the text."
                )


def _run_lmplz(program: str, text: Path, out: Path, order: int) -> None:
    # By itself it takes 80 % of the memory. Short texts lack the counts that its discounts are made of.
    command = [
        *(program, "--order", str(order), "--text", str(text), "--arpa", str(out)),
        *("--memory", "20%", "--temp_prefix", f"{text.parent}/", "--discount_fallback"),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        lines = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip()]
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise InputError(
            f"{program} could not make the n-gram ({reason}); look at the text, or try a lower order."
        )


def _run_kaldingram(text: Path, out: Path, order: int) -> None:
    train = import_module("kaldingram.train")

    # It shows progress bars.
    with silenced_stderr():
        counts = train.NgramCounts(order)
        counts.add_raw_counts_from_file(str(text))
        counts.cal_discounting_constants()

        # The first is that of single words, which are not discounted.
        counts.d[1:] = map(_repair_discount, counts.d[1:])

        counts.cal_f()
        counts.cal_bow()

        # It takes the bytes of UTF-8 for characters.
        with out.open("w", encoding="latin-1", newline="\n") as stream:
            counts.print_as_arpa(stream)


def _repair_discount(discount: float) -> float:
    return _DISCOUNT_FALLBACK if discount >= 1.0 else max(discount, _MIN_DISCOUNT)


def _read_counts(arpa: Path) -> tuple[int, ...]:
    counts = []

    with arpa.open(encoding="utf-8") as lines:
        for line in lines:
            if match := re.match(r"ngram \d+=(\d+)", line):
                counts.append(int(match[1]))
            elif line.startswith("\\1-grams:"):
                break

    return tuple(counts)


def _move(arpa: Path, out: Path) -> None:
    # The scratch folder may be on another file system, across which nothing is moved in one piece.
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(arpa, temporary)
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as ex:
        raise InputError(
            f"{out}: the n-gram cannot be written ({ex.strerror}); choose another file."
        ) from None
