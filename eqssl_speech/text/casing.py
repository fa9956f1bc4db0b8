"""How sources write capital letters: several ways in one vocabulary teach a model two labels for one sound."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

from eqssl_speech.text.findings import CheckedSplit, Finding

Casing: TypeAlias = Literal["capital letters only", "small letters only", "both"]
"""What the letters of an utterance are."""

_MIN_SHARE: Final = 0.02


def find_casing(splits: Sequence[CheckedSplit]) -> tuple[Casing | None, list[Finding]]:
    """Find out how a source writes capital letters.

    :param splits: The splits of the source.
    :returns: How most utterances are written, and a finding for each other way that more than 2 % have.
    """
    groups: dict[Casing, list[tuple[CheckedSplit, int]]] = defaultdict(list)

    for split in splits:
        for index, text in enumerate(split.transcripts.raw):
            if casing := _classify_casing(text):
                groups[casing].append((split, index))

    if not groups:
        return None, []

    main, *others = sorted(groups, key=lambda casing: -len(groups[casing]))
    total = sum(map(len, groups.values()))

    findings = []
    for casing in others:
        count = len(groups[casing])
        if count > _MIN_SHARE * total:
            split, index = groups[casing][0]
            message = f"{count} of {total} utterances, first this one, have {casing}, but most have {main}"
            findings.append(split.find("casing", index, message, count))

    return main, findings


def find_casing_between(
    casings: Sequence[tuple[Sequence[CheckedSplit], Casing]],
) -> Iterator[Finding]:
    """Find sources that write capital letters otherwise than the first source of their language.

    :param casings: The splits of each source, and how it writes.
    """
    first: dict[str, tuple[str, Casing]] = {}

    for splits, casing in casings:
        transcripts = splits[0].transcripts
        source = transcripts.source
        name, expected = first.setdefault(source.language, (source.name, casing))

        if casing != expected:
            message = f"{source.name} has {casing}, but {name} of the same language has {expected}"
            count = sum(len(split.transcripts.raw) for split in splits)
            yield splits[0].find("casing", 0, message, count)


def _classify_casing(text: str) -> Casing | None:
    has_lower = any(char.islower() for char in text)
    num_upper = sum(char.isupper() for char in text)

    # A single letter says nothing: `I` is a word.
    if not has_lower and num_upper < 2:
        return None
    if not has_lower:
        return "capital letters only"

    return "both" if num_upper else "small letters only"
