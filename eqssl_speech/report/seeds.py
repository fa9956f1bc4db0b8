"""The table of a study: error rates per language of several methods, each over several seeds.

    python -m eqssl_speech.report.seeds METHOD=DIR[,DIR,...] ...

where each DIR is one seed: it holds the ``summary.json`` of `eqssl evaluate`, or directories that do, such as one per
language. Prints Markdown: CER and WER in percent, the mean over the seeds and the sample standard deviation.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Final, TypeAlias

from eqssl_speech.error import InputError
from eqssl_speech.report.output import SUMMARY_FILE_NAME

RATES: Final = ("cer", "wer")

MACRO: Final = "macro"
"""The row of the average over languages."""

Rates: TypeAlias = Mapping[str, Mapping[str, float]]
"""What one seed came to: per language its CER and WER, 1.0 for 100 %."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables.

    :param argv: The arguments; by default those of the process.
    :returns: The exit status.
    """
    parser = ArgumentParser(prog="python -m eqssl_speech.report.seeds", description=__doc__)
    parser.add_argument("methods", metavar="METHOD=DIR[,DIR,...]", nargs="+")

    try:
        methods = dict(_parse(text) for text in parser.parse_args(argv).methods)

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
    """
    languages = list(dict.fromkeys(lang for seeds in methods.values() for s in seeds for lang in s))

    lines = [
        f"| language | {' | '.join(f'{name} (n={len(s)})' for name, s in methods.items())} |",
        f"|---|{'---|' * len(methods)}",
    ]

    for lang in languages:
        cells = (
            _describe([s[lang][rate] for s in seeds if lang in s]) for seeds in methods.values()
        )

        lines.append(f"| {lang} | {' | '.join(cells)} |")

    macros = (
        _describe([mean(r[rate] for r in s.values()) for s in seeds]) for seeds in methods.values()
    )

    return "\n".join((*lines, f"| {MACRO} | {' | '.join(macros)} |"))


def _describe(values: Sequence[float]) -> str:
    if not values:
        return "not run"

    spread = f" ± {100.0 * stdev(values):.1f}" if len(values) > 1 else ""

    return f"{100.0 * mean(values):.1f}{spread}"


def _parse(text: str) -> tuple[str, list[Rates]]:
    name, separator, directories = text.partition("=")

    if not separator or not name or not directories:
        raise InputError(f"`{text}` must be METHOD=DIR[,DIR,...], such as `none=runs/a,runs/b`.")

    return name, [_read_seed(Path(directory)) for directory in directories.split(",")]


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
        return [
            (str(lang), {rate: float(group[rate]["value"]) for rate in RATES})
            for lang, group in summary["languages"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{file}: is not the summary of `eqssl evaluate`.") from None


if __name__ == "__main__":
    sys.exit(main())
