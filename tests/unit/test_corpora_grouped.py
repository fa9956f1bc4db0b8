"""A corpus by language or domain has all utterances of the one that it was made of, and trains."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from recipe_runs import SAMPLE

from eqssl_speech.cli import main
from eqssl_speech.data.corpora.grouped import Grouping, group_corpus
from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.data.manifest import read_manifest, read_transcripts
from eqssl_speech.error import InputError


def list_utterances(directory: Path, split: str) -> Counter[tuple[Path, int, str | None]]:
    found: Counter[tuple[Path, int, str | None]] = Counter()

    for source in load_corpus(directory).sources:
        manifest = read_manifest(source.manifest_file(split))
        text = source.manifest_file(split).with_suffix(".wrd")
        lines = (
            read_transcripts(text, manifest) if text.exists() else [None] * len(manifest.entries)
        )

        for entry, line in zip(manifest.entries, lines, strict=True):
            found[manifest.locate(entry).resolve(), entry.num_samples, line] += 1

    return found


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("by", ["language", "domain"])
def test_all_utterances_are_there(tmp_path: Path, by: Grouping, split: str) -> None:
    group_corpus(load_corpus(SAMPLE), tmp_path / "out", by)

    whole, grouped = list_utterances(SAMPLE, split), list_utterances(tmp_path / "out", split)

    if by == "domain":
        # Texts of several languages are no texts of a language.
        kept = {utterance[:2] for utterance in grouped if utterance[2] is None}
        assert kept
        whole = Counter((*u[:2], None if u[:2] in kept else u[2]) for u in whole.elements())

    assert grouped == whole


def test_sources_say_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "grouped", str(SAMPLE), str(out), "--by", "domain"]) == 0

    sources = {source.name: source for source in load_corpus(out).sources}
    assert {name: source.language for name, source in sources.items()} == {
        "studio-reading": "ru",
        "acted-dialogue": "mul",
    }
    assert (out / "studio-reading" / "train.wrd").exists()
    assert not (out / "acted-dialogue" / "train.wrd").exists()
    assert "en-drascula-hero, en-drascula-cast, es-drascula" in capsys.readouterr().out

    # All files are read.
    assert main(["check", str(out)]) == 0

    group_corpus(
        load_corpus(SAMPLE), tmp_path / "en", "language", ["en-drascula-hero", "en-drascula-cast"]
    )
    (english,) = load_corpus(tmp_path / "en").sources
    assert (english.name, english.language, english.domain) == ("en", "en", "acted dialogue")


def test_what_cannot_be_grouped_is_refused(tmp_path: Path) -> None:
    corpus = load_corpus(SAMPLE)
    group_corpus(corpus, tmp_path / "out", "language")

    with pytest.raises(InputError, match="is a corpus already"):
        group_corpus(corpus, tmp_path / "out", "language")

    with pytest.raises(InputError, match="the source `fr` is unknown"):
        group_corpus(corpus, tmp_path / "other", "language", ["fr"])

    shutil.copytree(SAMPLE / "ru-festvox", tmp_path / "broken" / "ru-festvox")
    (tmp_path / "broken" / "ru-festvox" / "train.wrd").write_text("one line\n")

    with pytest.raises(InputError, match=r"train\.wrd: has 1 lines"):
        group_corpus(load_corpus(tmp_path / "broken"), tmp_path / "new", "language")

    assert not (tmp_path / "new" / "sources.tsv").exists()


def test_two_groups_do_not_become_one(tmp_path: Path) -> None:
    for name, domain in (("a", "read (studio)"), ("b", "read, studio")):
        shutil.copytree(SAMPLE / "ru-festvox", tmp_path / "corpus" / name)
        with (tmp_path / "corpus" / "sources.tsv").open("a") as stream:
            stream.write(f"{name}\tru\t{domain}\tfree\n")

    lines = (tmp_path / "corpus" / "sources.tsv").read_text()
    (tmp_path / "corpus" / "sources.tsv").write_text(f"source\tlanguage\tdomain\tlicence\n{lines}")

    with pytest.raises(InputError, match=r"`read \(studio\)` and `read, studio` would both be"):
        group_corpus(load_corpus(tmp_path / "corpus"), tmp_path / "out", "domain")

    # Before anything is written.
    assert not (tmp_path / "out").exists()
