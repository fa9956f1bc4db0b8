"""``eqssl lm``: make a word n-gram for beam search."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command
from eqssl_speech.error import InputError

if TYPE_CHECKING:
    from eqssl_speech.decoding.lm import BuiltNGram
    from eqssl_speech.decoding.lm_text import Sentences
    from eqssl_speech.decoding.ngram import NGram

_DESCRIPTION: Final = """\
Make a word n-gram of text, for the beam search of `eqssl evaluate` and `eqssl transcribe`: of text files with one
sentence a line, of the training text of a corpus, or of both. Give the recogniser's tokenizer, so that the words are
written as it writes them. Prints how well the n-gram foresees other text.

examples:
  eqssl lm --corpus corpus --tokenizer tokenizers/char lm.arpa
  eqssl lm --tokenizer tokenizers/char --language de --held-out other.txt news.txt books.txt de.arpa
  eqssl lm --corpus corpus --source ru-festvox --tokenizer tokenizers/ru ru.arpa --order 4

Write OUT right after the texts, with no option between them.
"""

_MAX_REFUSALS: Final = 3


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "lm", _DESCRIPTION, "make a word n-gram for beam search")

    parser.add_argument(
        "texts", metavar="TEXT", type=Path, nargs="*", help="text with one sentence a line"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write, such as lm.arpa")
    parser.add_argument(
        "--order",
        metavar="N",
        type=int,
        default=3,
        help="words looked at together, from 2 to 5 (default: 3)",
    )
    parser.add_argument(
        "--corpus", metavar="DIR", type=Path, help="use the training text of this corpus"
    )
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="use this source of the corpus; may be given several times (default: all that have text)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        type=Path,
        help="write the text as this tokenizer does (default: as it is)",
    )
    parser.add_argument("--language", metavar="CODE", help="language of the text files")
    parser.add_argument(
        "--held-out",
        metavar="FILE",
        type=Path,
        help="text to measure with (default: the validation text of the corpus)",
    )
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from eqssl_speech.decoding.lm import build_ngram

    _validate(options)

    training, held_out = _read(options)

    built, ngram = build_ngram(training.words, options.out, order=options.order)

    _print(built, training, held_out, ngram)

    return 0


def _validate(options: Namespace) -> None:
    if not options.texts and options.corpus is None:
        raise InputError(
            "there is no text to make an n-gram of; give text files before OUT, or `--corpus DIR`."
        )
    if options.source and options.corpus is None:
        raise InputError("`--source` needs `--corpus DIR`; give it, or leave the source out.")
    if options.language and options.tokenizer is None:
        raise InputError(
            "`--language` needs `--tokenizer DIR`; give it, or leave the language out."
        )
    if options.out in options.texts or options.out.suffix in (".txt", ".wrd"):
        raise InputError(
            f"{options.out}: is the last file and would be overwritten with the n-gram; "
            "give the file to write after the texts, such as lm.arpa."
        )


def _read(options: Namespace) -> tuple[Sentences, Sentences]:
    # Returns the text to make the n-gram of and the text to measure it with.
    from eqssl_speech.decoding.lm_text import Sentences, read_corpus_text, read_text
    from eqssl_speech.text.tokenizer import CtcTokenizer

    tokenizer = None if options.tokenizer is None else CtcTokenizer.load(options.tokenizer)

    training = held_out = Sentences((), ())

    for file in options.texts:
        training += read_text(file, tokenizer, options.language)

    if options.corpus is not None:
        training += read_corpus_text(options.corpus, options.source, tokenizer, "train")

    if options.held_out is not None:
        held_out = read_text(options.held_out, tokenizer, options.language)
    elif options.corpus is not None:
        held_out = read_corpus_text(options.corpus, options.source, tokenizer, "valid")

    return training, held_out


def _print(built: BuiltNGram, training: Sentences, held_out: Sentences, ngram: NGram) -> None:
    from eqssl_speech.text.tables import render_table

    rows = [["text", "sentences", "words", "unknown words", "perplexity"]]

    for name, text in (("training", training), ("held out", held_out)):
        if text.words:
            score = ngram.score(text.words)
            counts = [f"{score.num_sentences}", f"{score.num_words}"]
            rows.append([name, *counts, f"{score.unknown_rate:.1%}", f"{score.perplexity:.1f}"])

    print(render_table(rows, title="how well the n-gram foresees text", left=("text",)))

    for refusal in training.refusals[:_MAX_REFUSALS]:
        print(f"refused: {refusal}")

    num_more = len(training.refusals) - _MAX_REFUSALS
    if num_more > 0:
        print(f"refused: {num_more} more lines")

    counts = [f"{n} {order}-grams" for order, n in enumerate(built.num_ngrams, start=1)]

    print(f"Written: {built.file} ({', '.join(counts)}; made with {built.estimator})")
