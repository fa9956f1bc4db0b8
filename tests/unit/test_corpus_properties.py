"""Corpora of any content: lists of sources are read back as written, and what is wrong is refused by file and line."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from properties import ANY_TEXT, ODD_TOKENS, REPRODUCIBLE, assert_names

from eqssl_speech.data.corpus import (
    SOURCES_FILE,
    Corpus,
    DataSource,
    load_corpus,
    select_sources,
    write_sources,
)
from eqssl_speech.error import InputError

HEADER = "source\tlanguage\tdomain\tlicence"

NAMES = st.from_regex(r"[A-Za-z0-9][-_A-Za-z0-9]{0,20}", fullmatch=True)

FIELDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), max_size=20
).filter(str.strip)

ROWS = st.lists(
    st.tuples(NAMES, FIELDS, FIELDS, FIELDS),
    min_size=1,
    max_size=4,
    unique_by=lambda row: row[0].lower(),
)

ANY_SOURCE = st.builds(
    DataSource,
    st.one_of(NAMES, ANY_TEXT, st.just("x" * 300)),
    st.one_of(FIELDS, ANY_TEXT),
    FIELDS,
    st.one_of(FIELDS, ANY_TEXT),
    st.just(Path("unused")),
)

BAD_LINES = [
    *["en\ten\tread", "en\ten\tread\tCC0\t", "en", "\t\t\t.", "en\t\tread\tCC0", "en\ten\tread\t "],
    *["../en\ten\tread\tCC0", "/\ten\tread\tCC0", "e n\ten\tread\tCC0", "\0\ten\tread\tCC0"],
    *["x" * 300 + "\ten\tread\tCC0", "x" * 100_000, "gone\ten\tread\tCC0", "\x1b[31m\ta\tb\tc"],
    *["en\ten\tre\rad\tCC0", "first\ten\tread\tCC0"],
]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a folder per example."""
    return tmp_path_factory.mktemp("corpora")


def make_corpus(parent: Path, *names: str) -> Path:
    directory = Path(mkdtemp(dir=parent))
    for name in names:
        (directory / name).mkdir()
        (directory / name / "train.tsv").write_text(".\na.wav\t5\n")

    return directory


def load_or_refuse(directory: Path) -> Corpus | None:
    try:
        return load_corpus(directory)
    except InputError as ex:
        lines = "".join(re.findall(r"(?<=sources\.tsv)(?::\d+)?(?=: )", str(ex))[:1])
        assert_names(ex, f"{directory / SOURCES_FILE}{lines}")
        return None


@REPRODUCIBLE
@given(rows=ROWS)
def test_sources_are_read_back_as_written(
    parent: Path, rows: list[tuple[str, str, str, str]]
) -> None:
    directory = make_corpus(parent, *(row[0] for row in rows))
    sources = tuple(DataSource(*row, directory / row[0]) for row in rows)

    write_sources(directory, sources)

    assert load_corpus(directory).sources == sources


@REPRODUCIBLE
@given(
    rows=ROWS,
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r\n \r\n"]),
    ending=st.sampled_from([b"", b"\n", b"\r\n\r\n"]),
)
def test_line_ends_blank_lines_and_byte_order_mark_change_nothing(
    parent: Path,
    rows: list[tuple[str, str, str, str]],
    mark: bytes,
    line_end: bytes,
    ending: bytes,
) -> None:
    directory = make_corpus(parent, *(row[0] for row in rows))
    lines = [HEADER.encode(), *("\t".join(row).encode() for row in rows)]

    (directory / SOURCES_FILE).write_bytes(mark + line_end.join(lines) + ending)

    assert [
        (s.name, s.language, s.domain, s.licence) for s in load_corpus(directory).sources
    ] == rows


@REPRODUCIBLE
@given(sources=st.lists(ANY_SOURCE, min_size=1, max_size=3))
@example([DataSource("en", "\udce9", "read", "CC0", Path("unused"))])
def test_any_sources_are_read_back_or_not_written(parent: Path, sources: list[DataSource]) -> None:
    directory = make_corpus(parent)
    file = directory / SOURCES_FILE

    try:
        write_sources(directory, sources)
    except InputError as ex:
        assert_names(ex, file)
        assert not file.exists()
        return

    for source in sources:
        # The file system may not have so long a name, and then it cannot be loaded either.
        if len(source.name) <= 255:
            (directory / source.name).mkdir(exist_ok=True)

    corpus = load_or_refuse(directory)
    if corpus is None:
        assert any(len(source.name) > 255 for source in sources)
    else:
        assert [s.name for s in corpus.sources] == [s.name for s in sources]
        assert [s.licence for s in corpus.sources] == [s.licence for s in sources]


@REPRODUCIBLE
@given(before=st.integers(0, 2), bad=st.sampled_from(BAD_LINES), data=st.data())
def test_malformed_line_is_named_wherever_it_is(
    parent: Path, before: int, bad: str, data: st.DataObject
) -> None:
    names = ["first", "second"][: max(before, bad.startswith("first"))]
    directory = make_corpus(parent, *names, "en", "last")
    blanks = data.draw(st.integers(0, 2))

    lines = [HEADER, *[f"{name}\ten\tread\tCC0" for name in names], *[""] * blanks, bad]
    lines.append("last\ten\tread\tCC0")
    (directory / SOURCES_FILE).write_bytes("\n".join(lines).encode())

    with pytest.raises(InputError) as error:
        load_corpus(directory)

    assert_names(error, f"{directory / SOURCES_FILE}:{len(names) + blanks + 2}")


@REPRODUCIBLE
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from([*ODD_TOKENS, "en", "\ten", "\n"]), max_size=25).map(
            lambda tokens: "".join(tokens).encode()
        ),
    ),
    headed=st.booleans(),
)
def test_any_list_of_sources_is_read_or_refused(parent: Path, content: bytes, headed: bool) -> None:
    directory = make_corpus(parent, "en")
    (directory / SOURCES_FILE).write_bytes((f"{HEADER}\n".encode() if headed else b"") + content)

    corpus = load_or_refuse(directory)

    if corpus is not None:
        assert [source.name for source in corpus.sources] == ["en"]


@REPRODUCIBLE
@given(name=st.one_of(ANY_TEXT, st.sampled_from(["x" * 255, "é" * 127, "\udce9", "\x1b[31m"])))
def test_any_folder_is_a_source_or_is_refused(parent: Path, name: str) -> None:
    assume("/" not in name and name not in ("", ".", ".."))
    directory = make_corpus(parent)
    try:
        (directory / name).mkdir()
        (directory / name / "train.tsv").write_text(".\na.wav\t5\n")
    except (OSError, ValueError):
        # No file system has such a name.
        return

    if re.fullmatch(r"[A-Za-z0-9][-_A-Za-z0-9]*", name):
        assert [source.name for source in load_corpus(directory).sources] == [name]
    else:
        with pytest.raises(InputError) as error:
            load_corpus(directory)
        assert str(error.value).isprintable()


@REPRODUCIBLE
@given(
    rows=ROWS,
    wanted=st.lists(st.one_of(ANY_TEXT, NAMES, st.sampled_from(range(4))), max_size=4),
)
def test_selection_has_the_names_asked_for_or_is_refused(
    rows: list[tuple[str, str, str, str]], wanted: list[str | int]
) -> None:
    corpus = Corpus(Path("c"), tuple(DataSource(*row, Path("c") / row[0]) for row in rows))
    known = [row[0] for row in rows]
    names = [known[name % len(known)] if isinstance(name, int) else name for name in wanted]

    if names and len(set(names)) == len(names) and set(names) <= set(known):
        assert [s.name for s in select_sources(corpus, names).sources] == names
    else:
        with pytest.raises(InputError) as error:
            select_sources(corpus, names)
        assert_names(error, "c")


def test_directory_that_cannot_be_is_refused() -> None:
    for directory in (Path("x" * 300), Path("a\0b")):
        with pytest.raises(InputError, match="there is no such corpus directory"):
            load_corpus(directory)
