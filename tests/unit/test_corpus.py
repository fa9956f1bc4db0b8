"""Corpora: sources are found with and without `sources.tsv`, and a mistake in it is named by its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eqssl_speech.data.corpus import (
    SOURCES_FILE,
    DataSource,
    load_corpus,
    select_sources,
    write_sources,
)
from eqssl_speech.error import InputError

HEADER = "source\tlanguage\tdomain\tlicence\n"


def make_folder(directory: Path, name: str) -> Path:
    folder = directory / name
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text(".\na.wav\t5\n")

    return folder


def test_sources_survive_the_round_trip_in_their_order(tmp_path: Path) -> None:
    sources = tuple(
        DataSource(name, language, "read", "CC BY 4.0", make_folder(tmp_path, name))
        for name, language in (("zz_1", "pt-BR"), ("A-2", "und"))
    )

    write_sources(tmp_path, sources)
    first = (tmp_path / SOURCES_FILE).read_bytes()
    corpus = load_corpus(tmp_path)
    write_sources(tmp_path, corpus.sources)

    assert corpus.sources == sources
    assert (tmp_path / SOURCES_FILE).read_bytes() == first
    assert first.decode().splitlines()[0] == HEADER.rstrip()
    assert corpus.sources[0].manifest_file("valid") == tmp_path / "zz_1" / "valid.tsv"


def test_folders_are_sources_where_nothing_lists_them(tmp_path: Path) -> None:
    make_folder(tmp_path, "de")
    make_folder(tmp_path, "be")
    (tmp_path / "notes").mkdir()

    corpus = load_corpus(tmp_path)

    assert [s.name for s in corpus.sources] == ["be", "de"]
    assert corpus.sources[0] == DataSource("be", "und", "unknown", "unknown", tmp_path / "be")


def test_folder_of_manifests_is_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path, "librispeech")

    assert [s.name for s in load_corpus(folder).sources] == ["librispeech"]

    monkeypatch.chdir(folder)
    assert [s.name for s in load_corpus(Path()).sources] == ["librispeech"]


def test_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: there is no such corpus directory"):
        load_corpus(tmp_path / "gone")


def test_directory_without_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither .* holds a train\.tsv"):
        load_corpus(tmp_path)


@pytest.mark.parametrize("name", ["my source", "en.us", "-en", "été", "a:b"])
def test_folder_whose_name_cannot_be_a_metric_is_refused(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path, name)

    with pytest.raises(InputError, match=f"source name `{name}` may only .*rename the folder"):
        load_corpus(tmp_path)


@pytest.mark.parametrize(
    ("content", "line", "fault"),
    [
        ("", 1, "header must be"),
        ("en\ten\tread\tCC0\n", 1, "header must be"),
        (HEADER + "en\ten\tread\n", 2, "4 columns, but has 3"),
        (HEADER + "en\t\tread\tCC0\n", 2, "language of `en`"),
        (HEADER + "en\ten\tread\tCC0\n\nen\ten\tread\tCC0\n", 4, "listed twice"),
        (HEADER + "en\ten\tread\tCC0\nfr\tfr\tread\tCC0\n", 3, "`fr` has no folder"),
        (HEADER + "../en\ten\tread\tCC0\n", 2, "may only hold"),
    ],
)
def test_malformed_list_of_sources_is_named(
    tmp_path: Path, content: str, line: int, fault: str
) -> None:
    make_folder(tmp_path, "en")
    (tmp_path / SOURCES_FILE).write_text(content)

    with pytest.raises(InputError, match=fault) as info:
        load_corpus(tmp_path)

    assert str(info.value).startswith(f"{tmp_path / SOURCES_FILE}:{line}: ")
    assert "\n" not in str(info.value)


def test_list_of_no_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / SOURCES_FILE).write_text(HEADER)

    with pytest.raises(InputError, match="lists no source"):
        load_corpus(tmp_path)


def test_folder_that_was_forgotten_in_the_list_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, "en")
    make_folder(tmp_path, "fr")
    (tmp_path / SOURCES_FILE).write_text(HEADER + "en\ten\tread\tCC0\n")

    with pytest.raises(InputError, match=r"`fr` holds a train\.tsv but is not listed"):
        load_corpus(tmp_path)


def test_sources_that_could_not_be_read_back_are_not_written(tmp_path: Path) -> None:
    good = DataSource("en", "en", "read", "CC0", tmp_path / "en")

    for bad in (
        replace(good, name="e n"),
        replace(good, language=""),
        replace(good, licence="CC0\nor not"),
        good,
    ):
        with pytest.raises(InputError):
            write_sources(tmp_path, [good, bad])

    assert list(tmp_path.iterdir()) == []


def test_selection_keeps_the_named_sources_in_the_given_order(tmp_path: Path) -> None:
    for name in ("be", "de", "en"):
        make_folder(tmp_path, name)
    corpus = load_corpus(tmp_path)

    assert select_sources(corpus, None) == corpus
    assert [s.name for s in select_sources(corpus, ["en", "be"]).sources] == ["en", "be"]


def test_unknown_source_is_named_with_the_closest_and_all_known(tmp_path: Path) -> None:
    for name in ("german", "english"):
        make_folder(tmp_path, name)
    corpus = load_corpus(tmp_path)

    with pytest.raises(InputError) as info:
        select_sources(corpus, ["germn"])

    assert str(info.value).endswith(
        "the source `germn` is unknown; "
        "the known ones are `english`, `german`, of which `german` is the closest."
    )

    with pytest.raises(InputError, match=r"`xx` is unknown; the known ones are .*`german`\.$"):
        select_sources(corpus, ["xx"])


@pytest.mark.parametrize(("names", "fault"), [([], "empty"), (["de", "de"], "twice")])
def test_empty_or_repeated_selection_is_refused(
    tmp_path: Path, names: list[str], fault: str
) -> None:
    make_folder(tmp_path, "de")

    with pytest.raises(InputError, match=fault):
        select_sources(load_corpus(tmp_path), names)
