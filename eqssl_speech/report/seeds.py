"""The table of a study: error rates per language of several methods, each over several seeds.

    python -m eqssl_speech.report.seeds METHOD=DIR[,DIR,...] ...

where each DIR is one seed: it holds the ``summary.json`` of `eqssl evaluate`, or directories that do, such as one per
language. Prints Markdown: CER and WER in percent, the mean over the seeds and the sample standard deviation. A cell of
fewer seeds than the head of its column says how many; the average over languages is of seeds that have all of them.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Final, TypeAlias

from eqssl_speech.error import InputError
from eqssl_speech.report.output import SUMMARY_FILE_NAME

RATES: Final = ("cer", "wer")

MACRO: Final = "macro"
"""The row of the average over the languages of the table; seeds that lack one of them have none."""

Rates: TypeAlias = Mapping[str, Mapping[str, float]]
"""What one seed came to: per language its CER and WER, 1.0 for 100 %."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables.

    :param argv: The arguments; by default those of the process.
    :returns: The exit status.
    """
    parser = ArgumentParser(
        prog="python -m eqssl_speech.report.seeds",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("methods", metavar="METHOD=DIR[,DIR,...]", nargs="+")

    try:
        methods = _parse_all(parser.parse_args(argv).methods)

        for rate in RATES:
            print(f"{rate.upper()}, percent:\n\n{render(methods, rate)}\n")
    except InputError as ex:
        print(f"eqssl: {ex}", file=sys.stderr)

        return 2

    return 0


def render(methods: Mapping[str, Sequence[Rates]], rate: str) -> str:
    """Lay the rates of all methods out as a Markdown table.

    :param methods: Per method the rates of its seeds.
    :param rate: ``cer`` or ``wer``.
    :returns: The table, without a line end after it.
    """
    languages = list(dict.fromkeys(lang for seeds in methods.values() for s in seeds for lang in s))

    lines = [
        f"| language | {' | '.join(f'{name} (n={len(s)})' for name, s in methods.items())} |",
        f"|---|{'---|' * len(methods)}",
    ]

    for lang in languages:
        cells = (
            _describe([s[lang][rate] for s in seeds if lang in s], len(seeds))
            for seeds in methods.values()
        )

        lines.append(f"| {lang} | {' | '.join(cells)} |")

    # Averages over different languages could not be compared.
    macros = (
        _describe(
            [mean(r[rate] for r in s.values()) for s in seeds if len(s) == len(languages)],
            len(seeds),
        )
        for seeds in methods.values()
    )

    return "\n".join((*lines, f"| {MACRO} | {' | '.join(macros)} |"))


def _describe(values: Sequence[float], num_seeds: int) -> str:
    if not values:
        return "not run"

    spread = f" ± {100.0 * stdev(values):.1f}" if len(values) > 1 else ""
    count = f" (n={len(values)})" if len(values) < num_seeds else ""

    return f"{100.0 * mean(values):.1f}{spread}{count}"


def _parse_all(texts: Sequence[str]) -> dict[str, list[Rates]]:
    methods: dict[str, list[Rates]] = {}

    for text in texts:
        name, directories = _parse(text)

        if name in methods:
            raise InputError(
                f"`{text}`: `{name}` is given twice; give all its directories at once, with commas."
            )

        methods[name] = [_read_seed(directory) for directory in directories]

    return methods


def _parse(text: str) -> tuple[str, list[Path]]:
    name, _, listed = text.partition("=")
    directories = listed.split(",")

    if not name or not all(directories):
        raise InputError(f"`{text}` must be METHOD=DIR[,DIR,...], such as `none=runs/a,runs/b`.")

    paths = [Path(directory) for directory in directories]

    if len(set(paths)) < len(paths):
        raise InputError(f"`{text}` has a directory twice; each must be another seed.")

    return name, paths


def _read_seed(directory: Path) -> Rates:
    file = directory / SUMMARY_FILE_NAME
    files = [file] if file.exists() else sorted(directory.glob(f"*/{SUMMARY_FILE_NAME}"))

    if not files:
        raise InputError(
            f"{directory}: has no {SUMMARY_FILE_NAME}; run `eqssl evaluate --out` first."
        )

    rates: dict[str, Mapping[str, float]] = {}

    for file in files:
        for lang, group in _read_languages(file):
            if lang in rates:
                raise InputError(
                    f"{file}: `{lang}` is also in another summary of {directory}; keep one."
                )

            rates[lang] = group

    return rates


def _read_languages(file: Path) -> list[tuple[str, dict[str, float]]]:
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as ex:
        raise InputError(
            f"{file}: cannot be read ({ex}); run `eqssl evaluate --out` again."
        ) from None

    try:
        rates = [
            (str(lang), {rate: float(group[rate]["value"]) for rate in RATES})
            for lang, group in summary["languages"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        rates = []

    if not rates:
        raise InputError(f"{file}: is not the summary of `eqssl evaluate`.")

    return rates


if __name__ == "__main__":
    sys.exit(main())
