"""``eqssl tokenizer``: make the vocabulary of a recogniser."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eqssl_speech.cli.common import add_command, positive_int

if TYPE_CHECKING:
    from eqssl_speech.text.build import BuiltTokenizer

_DESCRIPTION: Final = """\
Make the vocabulary of a recogniser from the training text of a corpus, and the rules by which text is written:
lower case, no punctuation, and no digits, as nobody can tell how they were spoken. Prints what the vocabulary
covers, and what the text of the other splits holds that it lacks.

examples:
  eqssl tokenizer corpus tokenizers/char                              every character is a label
  eqssl tokenizer corpus tokenizers/ru --source ru-festvox --min-char-count 5
  eqssl tokenizer corpus tokenizers/bpe --kind bpe --vocab-size 500   pieces of words are labels
  eqssl tokenizer corpus tokenizers/cased --case keep --punctuation keep --digits keep
"""

_MAX_REFUSALS: Final = 3


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "tokenizer", _DESCRIPTION, "make the vocabulary of a recogniser")

    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="directory of the corpus")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the tokenizer")
    parser.add_argument(
        "--source",
        metavar="NAME",
        action="append",
        help="use this source; may be given several times (default: all that have text)",
    )
    parser.add_argument(
        "--kind",
        choices=("char", "unigram", "bpe"),
        default="char",
        help="what a label is: a character, or a piece of a word (default: char)",
    )
    parser.add_argument(
        "--vocab-size",
        metavar="N",
        type=positive_int,
        help="number of labels of kind unigram or bpe, with the blank and the unknown one",
    )
    parser.add_argument(
        "--min-char-count",
        metavar="N",
        type=positive_int,
        default=1,
        help="characters seen less often become unknown (default: 1)",
    )
    parser.add_argument("--force", action="store_true", help="replace the tokenizer at OUT")
    _add_rules(parser)
    parser.set_defaults(run=_run)


def _add_rules(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "rules", "where text is to be written otherwise than is the default of its language"
    )
    treatments = ("keep", "drop", "refuse")

    group.add_argument("--case", choices=("lower", "keep"), help="capital letters (default: lower)")
    group.add_argument(
        "--punctuation",
        choices=treatments,
        help="punctuation; `refuse` leaves its utterances out (default: drop)",
    )
    group.add_argument(
        "--digits",
        choices=treatments,
        help="digits, and signs that are read as words, such as %% and & (default: refuse)",
    )
    group.add_argument(
        "--inner",
        metavar="SIGNS",
        help="signs that belong to a word between two letters, such as \"'-\" (default: ')",
    )


def _run(options: Namespace) -> int:
    from eqssl_speech.data.corpus import load_corpus
    from eqssl_speech.text.build import build_tokenizer
    from eqssl_speech.text.rules import RuleOverrides

    built = build_tokenizer(
        load_corpus(options.corpus),
        options.source,
        overrides=RuleOverrides(
            case=options.case,
            punctuation=options.punctuation,
            digits=options.digits,
            inner=options.inner,
        ),
        kind=options.kind,
        vocab_size=options.vocab_size,
        min_char_count=options.min_char_count,
    )

    _print(built)

    built.tokenizer.save(options.out, replace=options.force)

    tokenizer = built.tokenizer

    print(
        f"Written: {options.out} ({tokenizer.kind}, {tokenizer.vocab_size} labels, "
        f"languages: {', '.join(tokenizer.languages)})"
    )

    return 0


def _print(built: BuiltTokenizer) -> None:
    from eqssl_speech.text.coverage import LEFT_COLUMNS, list_other_rows, list_training_rows
    from eqssl_speech.text.tables import render_table

    rows = list_training_rows(built.training)
    print(render_table(rows, title="training text", left=LEFT_COLUMNS), end="\n\n")

    if built.others:
        rows = list_other_rows(built.others)
        title = "text that the vocabulary was not made of"
        print(render_table(rows, title=title, left=LEFT_COLUMNS), end="\n\n")

    for coverage in built.coverages:
        for refusal in coverage.refusals[:_MAX_REFUSALS]:
            print(f"refused: {refusal}")

        num_more = len(coverage.refusals) - _MAX_REFUSALS
        if num_more > 0:
            print(
                f"refused: {num_more} more of {coverage.source}, {coverage.split}; "
                "`eqssl check --ctc` names all"
            )

    for sentence in _list_remarks(built):
        print(sentence)


def _list_remarks(built: BuiltTokenizer) -> list[str]:
    from eqssl_speech.text.coverage import list_characters

    remarks = []

    if built.without_text:
        names = ", ".join(built.without_text)
        remarks.append(f"Left out, as they have no training text (train.wrd): {names}.")

    if any(c.refusals for c in built.coverages):
        remarks.append(
            "Utterances whose text is refused will not be trained on: write numbers and signs as words in the "
            "text, or choose otherwise with `--digits` and `--punctuation`."
        )

    if rare := built.tokenizer.info.rare_characters:
        remarks.append(
            f"Unknown, as the training text has them less than {built.tokenizer.info.min_char_count} times: "
            f"{list_characters(rare)}."
        )

    if any(c.unknown for c in built.others):
        remarks.append(
            "Characters that the vocabulary lacks are never recognised and count as errors: correct them in the "
            "text if they are mistakes, or add training text that has them."
        )

    return remarks
