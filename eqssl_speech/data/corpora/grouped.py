"""Makes a corpus whose sources are the languages or the domains of another; the audio stays where it is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

from eqssl_speech.data.corpus import (
    SOURCES_FILE,
    Corpus,
    DataSource,
    select_sources,
    write_sources,
)
from eqssl_speech.data.manifest import (
    ManifestEntry,
    read_manifest,
    read_transcripts,
    replace_text,
    write_manifest,
)
from eqssl_speech.error import InputError

Grouping: TypeAlias = Literal["language", "domain"]

_SPLITS: Final = ("train", "valid", "test")

_MANY_LANGUAGES: Final = "mul"
"""The language of a source of several (ISO 639-2)."""


@final
@dataclass(frozen=True)
class Group:
    """A source of the new corpus."""

    source: DataSource
    members: tuple[str, ...]
    """The sources that it is made of."""

    num_utterances: dict[str, int]
    """By split."""


def group_corpus(
    corpus: Corpus, out: Path, by: Grouping, names: Sequence[str] | None = None
) -> list[Group]:
    """Make a corpus with one source for each language, or each domain.

    Texts are kept where all sources of a group have them and are of one language.

    :param corpus: The corpus.
    :param out: The directory of the new one.
    :param by: What makes a source.
    :param names: The sources that are taken; by default all.
    :returns: The new sources.
    :raises InputError: If ``out`` is a corpus already, if two groups would have the same name, or if a source is
        unknown or cannot be read.
    """
    if (out / SOURCES_FILE).exists():
        raise InputError(f"{out}: is a corpus already; choose another directory, or remove it.")

    groups: dict[str, list[DataSource]] = {}
    for source in select_sources(corpus, names).sources:
        groups.setdefault(source.language if by == "language" else source.domain, []).append(source)

    titles: dict[str, str] = {}
    for title in groups:
        if (other := titles.setdefault(_name_group(title), title)) != title:
            raise InputError(
                f"{corpus.directory}: `{other}` and `{title}` would both be the source `{_name_group(title)}`; rename "
                f"one of them in {SOURCES_FILE}."
            )

    made = [_make_group(title, members, out) for title, members in groups.items()]

    # Last: without it there is no corpus.
    write_sources(out, [group.source for group in made])

    return made


def _name_group(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", title).strip("-") or "unknown"


def _make_group(title: str, members: Sequence[DataSource], out: Path) -> Group:
    name = _name_group(title)
    languages = {source.language for source in members}
    domains = list(dict.fromkeys(source.domain for source in members))
    licences = list(dict.fromkeys(source.licence for source in members))

    group = DataSource(
        name,
        members[0].language if len(languages) == 1 else _MANY_LANGUAGES,
        ", ".join(domains),
        "; ".join(licences),
        out / name,
    )
    group.directory.mkdir(parents=True, exist_ok=True)

    counts = {
        split: _write_split(group, split, members, has_text=len(languages) == 1)
        for split in _SPLITS
    }

    if counts["train"] == 0:
        raise InputError(f"{members[0].directory}: has no train.tsv; leave it out with `--source`.")

    return Group(
        group,
        tuple(source.name for source in members),
        {split: count for split, count in counts.items() if count},
    )


def _write_split(
    group: DataSource, split: str, members: Sequence[DataSource], *, has_text: bool
) -> int:
    """Write a split; return how many utterances it has."""
    members = [source for source in members if source.manifest_file(split).is_file()]
    if not members:
        return 0

    manifests = [read_manifest(source.manifest_file(split)) for source in members]
    root = Path(os.path.commonpath([manifest.root.resolve() for manifest in manifests]))

    entries = [
        ManifestEntry(
            str((manifest.root.resolve() / entry.path).relative_to(root)),
            entry.num_samples,
            entry.offset,
            entry.is_slice,
        )
        for manifest in manifests
        for entry in manifest.entries
    ]

    texts = [source.manifest_file(split).with_suffix(".wrd") for source in members]

    if has_text and all(text.is_file() for text in texts):
        lines = [
            line
            for text, manifest in zip(texts, manifests, strict=True)
            for line in read_transcripts(text, manifest)
        ]
        replace_text(
            group.manifest_file(split).with_suffix(".wrd"), "".join(f"{x}\n" for x in lines)
        )

    write_manifest(group.manifest_file(split), root, entries)

    return len(entries)
