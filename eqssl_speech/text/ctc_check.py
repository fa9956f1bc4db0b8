"""Looks at the text of a corpus before anything is trained on it, as ``eqssl check --ctc`` does; prints nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Final, final

from eqssl_speech.data.check import SourceReport
from eqssl_speech.data.corpus import Corpus, DataSource
from eqssl_speech.error import InputError
from eqssl_speech.text.casing import Casing, find_casing, find_casing_between
from eqssl_speech.text.findings import (
    REMEDIES,
    CheckedSplit,
    Finding,
    FindingKind,
    find_brackets,
    find_impossible,
    find_mixed_scripts,
    find_odd_rates,
    find_repeated_text,
    find_unknown_characters,
    find_unusable_text,
)
from eqssl_speech.text.labels import CharacterLabels, Labels, TokenizerLabels
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.transcripts import list_transcribed_splits, read_split

_REQUIRED: Final = ("train", "valid")

_UNUSABLE: Final[tuple[FindingKind, ...]] = ("impossible", "refused", "empty")


@final
@dataclass
class CtcCheck:
    """What was found in the text of a corpus."""

    num_utterances: dict[str, int] = field(default_factory=dict)
    """The number of utterances of each source that were looked at, all splits together."""

    num_usable: dict[str, int] = field(default_factory=dict)
    """How many of them CTC can be trained on."""

    num_bad_recordings: dict[str, int] = field(default_factory=dict)
    """How many of them have a recording that cannot be used."""

    findings: list[Finding] = field(default_factory=list)
    """What is, or may be, wrong: by kind in the order of ``REMEDIES``, then by source, then by line."""

    without_text: list[str] = field(default_factory=list)
    """The sources that have no training text."""

    untrainable: list[str] = field(default_factory=list)
    """Why sources cannot be trained on, one sentence each."""

    def list_rows(self) -> list[list[str]]:
        """Return the rows of a table by source and kind, the titles first; what was not found has no column."""
        columns: dict[str, list[int]] = {
            "bad recording": list(self.num_bad_recordings.values()),
            **{kind: [self.count(name)[kind] for name in self.num_utterances] for kind in REMEDIES},
        }
        found = {title: column for title, column in columns.items() if any(column)}

        rows = [["source", "utterances", "usable", *found]]

        for index, (name, count) in enumerate(self.num_utterances.items()):
            cells = [str(column[index] or "") for column in found.values()]
            rows.append([name, str(count), str(self.num_usable[name]), *cells])

        return rows

    def count(self, source: str) -> Counter[FindingKind]:
        """Return the number of utterances of a source that have each kind of fault."""
        counts: Counter[FindingKind] = Counter()

        for finding in self.findings:
            if finding.source == source:
                counts[finding.kind] += finding.count

        return counts

    def list_lines(self, max_per_source: int | None) -> Iterator[str]:
        """Return the findings as lines: each kind with its remedy, and below it the utterances.

        :param max_per_source: How many findings of a kind are named for each source; ``None`` for all.
        """
        for kind, of_kind in groupby(self.findings, key=lambda finding: finding.kind):
            findings = list(of_kind)
            yield ""
            yield f"{kind} ({sum(f.count for f in findings)}): {REMEDIES[kind]}."

            for source, of_source in groupby(findings, key=lambda finding: finding.source):
                named = list(of_source)
                for finding in named[:max_per_source]:
                    yield f"  {finding.where}: {finding.message}"

                num_more = 0 if max_per_source is None else len(named) - max_per_source
                if num_more > 0:
                    yield f"  and {num_more} more of {source}; `--all` names all"


def check_ctc(
    corpus: Corpus,
    reports: Sequence[SourceReport],
    *,
    tokenizer: CtcTokenizer | None = None,
    sample_rate: int = 16_000,
) -> CtcCheck:
    """Look for what CTC cannot be trained on, and for what probably is a mistake.

    :param corpus: The sources. Those without training text are left out and named.
    :param reports: What :func:`~eqssl_speech.data.check.check_split` found in their recordings; a split without a
        report is not looked at.
    :param tokenizer: Makes the labels; without one every character is a label, and text is written by default rules.
    :param sample_rate: The rate of the lengths in ``reports``, in Hz.
    :returns: What was found.
    :raises InputError: If text cannot be read, or does not fit its manifest.
    """
    check = CtcCheck()
    lengths = {(r.source, r.split): dict(zip(r.good, r.num_samples)) for r in reports}

    characters = CharacterLabels()
    labels: Labels = characters if tokenizer is None else TokenizerLabels(tokenizer)

    sources = []
    for source in corpus.sources:
        if splits := _read_source(check, source, lengths, labels):
            sources.append(splits)

        for split in splits:
            if split.transcripts.split == "train":
                characters.learn(split.transcripts.texts)

    casings: list[tuple[Sequence[CheckedSplit], Casing]] = []
    for splits in sources:
        _check_source(check, splits, labels, sample_rate)

        casing, findings = find_casing(splits)
        check.findings += findings
        if casing is not None:
            casings.append((splits, casing))

    check.findings += find_casing_between(casings)

    kinds = list(REMEDIES)
    names = list(check.num_utterances)
    check.findings.sort(key=lambda f: (kinds.index(f.kind), names.index(f.source)))

    return check


def _read_source(
    check: CtcCheck,
    source: DataSource,
    lengths: dict[tuple[str, str], dict[int, int]],
    labels: Labels,
) -> list[CheckedSplit]:
    splits = list_transcribed_splits(source)

    if "train" not in splits:
        check.without_text.append(source.name)
        return []

    if "valid" not in splits:
        check.untrainable.append(
            f"{source.manifest_file('valid')}: the source `{source.name}` has no validation text "
            "(valid.wrd); write one line of text per utterance, or leave the source out."
        )

    normalize = partial(labels.normalize, language=source.language)
    try:
        normalize("")
    except InputError as ex:
        check.untrainable.append(str(ex))
        return []

    return [
        CheckedSplit(read_split(source, split, normalize), lengths[source.name, split])
        for split in splits
        if (source.name, split) in lengths
    ]


def _check_source(
    check: CtcCheck, splits: Sequence[CheckedSplit], labels: Labels, sample_rate: int
) -> None:
    name = splits[0].transcripts.source.name
    check.num_utterances[name] = 0
    check.num_usable[name] = 0
    check.num_bad_recordings[name] = 0

    for split in splits:
        impossible = list(find_impossible(split, labels))
        unusable = list(find_unusable_text(split))
        num_usable = len(split.usable) - len(impossible)

        check.num_utterances[name] += len(split.transcripts.raw)
        check.num_usable[name] += num_usable
        check.num_bad_recordings[name] += split.num_bad_recordings
        check.findings += [*impossible, *unusable]
        check.findings += find_unknown_characters(split, labels)
        check.findings += find_mixed_scripts(split)
        check.findings += find_brackets(split)

        if num_usable == 0 and split.transcripts.split in _REQUIRED:
            check.untrainable.append(_explain(split, [*impossible, *unusable]))

    check.findings += find_odd_rates(splits, labels, sample_rate)
    check.findings += find_repeated_text(splits)


def _explain(split: CheckedSplit, findings: Sequence[Finding]) -> str:
    transcripts = split.transcripts
    counts = Counter(finding.kind for finding in findings)
    reasons = [f"{counts[kind]} {kind}" for kind in _UNUSABLE if counts[kind]]

    if split.num_bad_recordings:
        reasons.append(f"{split.num_bad_recordings} with a bad recording")

    return (
        f"{transcripts.manifest.file}: none of the {len(transcripts.raw)} utterances of the source "
        f"`{transcripts.source.name}` can be used ({', '.join(reasons)}); "
        "correct them as said above, or leave the source out."
    )
