"""The table of a study: error rates per language of several methods, each over several seeds.

    python -m eqssl_speech.report.seeds METHOD=DIR[,DIR,...] ...

where each DIR holds the ``summary.json`` of `eqssl evaluate`. Prints Markdown: CER and WER in percent, the mean over
the seeds and the sample standard deviation.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from eqssl_speech.error import InputError
from eqssl_speech.report.output import SUMMARY_FILE_NAME

MACRO: Final = "macro"
"""The row of the average over languages."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables.

    :param argv: The arguments; by default those of the process.
    :returns: The exit status.
    """
    parser = ArgumentParser(prog="python -m eqssl_speech.report.seeds", description=__doc__)
    parser.add_argument("methods", metavar="METHOD=DIR[,DIR,...]", nargs="+")

    try:
        methods = dict(_parse(text) for text in parser.parse_args(argv).methods)

        for rate in ("cer", "wer"):
            print(f"{rate.upper()}, percent:\n\n{render(methods, rate)}\n")
    except InputError as ex:
        print(f"eqssl: {ex}", file=sys.stderr)

        return 2

    return 0


def render(methods: Mapping[str, Sequence[Mapping[str, Any]]], rate: str) -> str:
    """Lay the rates of all methods out as a Markdown table.

    :param methods: Per method the summaries of its evaluations, one per seed.
    :param rate: ``cer`` or ``wer``.
    """
    languages = list(dict.fromkeys(lang for s in methods.values() for x in s for lang in x["languages"]))  # fmt: skip

    lines = [
        f"| language | {' | '.join(f'{name} (n={len(s)})' for name, s in methods.items())} |",
        f"|---|{'---|' * len(methods)}",
    ]

    for row in (*languages, MACRO):
        cells = (_describe([_rate_of(s, row, rate) for s in found]) for found in methods.values())

        lines.append(f"| {row} | {' | '.join(cells)} |")

    return "\n".join(lines)


def _describe(values: Sequence[float | None]) -> str:
    present = [100.0 * value for value in values if value is not None]
    if not present:
        return "not run"

    spread = f" ± {stdev(present):.1f}" if len(present) > 1 else ""

    return f"{mean(present):.1f}{spread}"


def _rate_of(summary: Mapping[str, Any], row: str, rate: str) -> float | None:
    group = summary["macro_languages"] if row == MACRO else summary["languages"].get(row)

    return None if group is None else float(group[rate]["value"])


def _parse(text: str) -> tuple[str, list[dict[str, Any]]]:
    name, separator, directories = text.partition("=")

    if not separator or not name or not directories:
        raise InputError(f"`{text}` must be METHOD=DIR[,DIR,...], such as `none=runs/a,runs/b`.")

    return name, [
        _read(Path(directory) / SUMMARY_FILE_NAME) for directory in directories.split(",")
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as ex:
        raise InputError(
            f"{file}: cannot be read ({ex}); run `eqssl evaluate --out` first."
        ) from None

    if not isinstance(summary, dict) or not {"languages", "macro_languages"} <= summary.keys():
        raise InputError(f"{file}: is not the summary of `eqssl evaluate`.")

    return summary


if __name__ == "__main__":
    sys.exit(main())
