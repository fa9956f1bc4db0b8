"""Manifests of any content: what is written is read back, and whatever cannot be read is refused by file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties import ANY_TEXT, ODD_TOKENS, REPRODUCIBLE, assert_names

from eqssl_speech.data.manifest import (
    Manifest,
    ManifestEntry,
    read_manifest,
    read_transcripts,
    write_manifest,
)
from eqssl_speech.error import InputError

ROOTS = [".", "..", "a b", "é\u2028ß", "a:1:2", "*"]

LINE_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), max_size=20
)

PATHS = st.one_of(
    LINE_TEXT,
    st.sampled_from(["a b.wav", "/absolute/a.wav", "../a.wav", "./a.wav", "a:1:b", "\ufeffa", "x" * 5000]),
).filter(lambda path: path.strip() and re.fullmatch(r".+:[0-9]+:[0-9]+", path) is None)  # fmt: skip

NUMBERS = st.one_of(st.integers(1, 10**6), st.sampled_from([1, 2**31, 2**32, 2**53, 2**63 - 1]))

ENTRIES = st.one_of(
    st.builds(ManifestEntry, PATHS, NUMBERS),
    st.builds(
        ManifestEntry, PATHS, NUMBERS, st.one_of(st.just(0), NUMBERS), is_slice=st.just(True)
    ),
)

ANY_ENTRY = st.builds(
    ManifestEntry,
    st.one_of(ANY_TEXT, PATHS),
    st.one_of(st.integers(), NUMBERS, st.just(10**5000)),
    st.one_of(st.just(0), st.integers(), st.just(10**5000)),
    is_slice=st.booleans(),
)

BAD_LINES = [
    *[
        "",
        " ",
        "a.wav",
        "a.wav\t",
        "a.wav\t ",
        "a.wav 5",
        "\t5",
        " \t5",
        "a.wav\t5\t",
        "a.wav\t5\t6",
    ],
    *["a.wav\t0", "a.wav\t-1", "a.wav\t1.0", "a.wav\t1e3", "a.wav\t0x10", "a.wav\t٣", "a.wav\t1_0"],
    *[f"a.wav\t{2**63}", "a.wav\t" + "9" * 5000, "a.wav\t-" + "9" * 5000, "a.wav\t+", "a.wav\t\0"],
    *[
        "a.wav:1:2\t3",
        " :0:5\t5",
        "a.wav\t" + "0" * 5000,
        f"a.wav:{'9' * 5000}:5\t5",
        f"a.wav:0:{'9' * 5000}\t5",
        f"a:{2**63}:5\t5",
    ],
    *["\x1b[31m\t-", "x" * 100_000, "x\t" + "y" * 100_000],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own with the folders of ``ROOTS`` in it."""
    folder = tmp_path_factory.mktemp("manifests") / "m"
    for root in ROOTS:
        (folder / root).mkdir(parents=True, exist_ok=True)

    return folder


def read_or_refuse(file: Path) -> Manifest | None:
    try:
        return read_manifest(file)
    except InputError as ex:
        place = file if str(ex).startswith(f"{file}: ") else re.match(r".*?train\.tsv:\d+", str(ex))
        assert_names(ex, place[0] if isinstance(place, re.Match) else file)
        return None


def assert_is_sound(manifest: Manifest) -> None:
    assert manifest.entries
    for entry in manifest.entries:
        assert 0 < entry.num_samples < 2**63
        assert 0 <= entry.offset < 2**63
        assert entry.path.strip()
        assert not set(entry.path) & set("\t\n")
        assert manifest.locate(entry) == manifest.root / entry.path


@REPRODUCIBLE
@given(root=st.sampled_from(ROOTS), entries=st.lists(ENTRIES, min_size=1, max_size=6))
def test_what_is_written_is_read_back(
    folder: Path, root: str, entries: list[ManifestEntry]
) -> None:
    file = folder / "train.tsv"

    for written_root in (root, folder / root):
        write_manifest(file, written_root, entries)
        manifest = read_manifest(file)

        assert list(manifest.entries) == entries
        assert manifest.root == folder / root


@REPRODUCIBLE
@given(
    entries=st.lists(ENTRIES, min_size=1, max_size=4),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    ending=st.sampled_from([b"", b"\n", b"\r\n", b"\n\n \n", b"\r\n\r\n"]),
)
def test_line_ends_and_byte_order_mark_change_nothing(
    folder: Path, entries: list[ManifestEntry], mark: bytes, line_end: bytes, ending: bytes
) -> None:
    file = folder / "train.tsv"
    write_manifest(file, ".", entries)

    lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    file.write_bytes(mark + line_end.join(lines) + ending)

    assert list(read_manifest(file).entries) == entries


@REPRODUCIBLE
@given(entry=ANY_ENTRY)
@example(ManifestEntry("a\udce9.wav", 5))
@example(ManifestEntry("a\r", 5))
def test_any_entry_is_read_back_or_not_written(folder: Path, entry: ManifestEntry) -> None:
    file = folder / "any.tsv"
    file.unlink(missing_ok=True)

    try:
        write_manifest(file, ".", [entry])
    except InputError as ex:
        assert_names(ex, file)
        assert not file.exists()
    else:
        assert read_manifest(file).entries == (entry,)


@REPRODUCIBLE
@given(root=st.one_of(ANY_TEXT, st.lists(st.sampled_from(ODD_TOKENS), max_size=4).map("".join)))
@example("x" * 300)
@example("/".join(["x" * 200] * 30))
@example("\ufeff.")
@example("a\nb.wav\t5")
def test_any_audio_root_is_read_back_or_refused(folder: Path, root: str) -> None:
    file = folder / "train.tsv"

    try:
        write_manifest(file, root, [ManifestEntry("a.wav", 5)])
    except InputError as ex:
        assert_names(ex, file)
        return

    manifest = read_or_refuse(file)

    if manifest is not None:
        assert manifest.root == folder / root
        assert manifest.entries == (ManifestEntry("a.wav", 5),)
    else:
        with pytest.raises(InputError, match=r"train\.tsv:1: the audio root .* does not exist"):
            read_manifest(file)


@REPRODUCIBLE
@given(
    before=st.integers(0, 3),
    after=st.integers(1, 3),
    bad=st.one_of(
        st.sampled_from(BAD_LINES), LINE_TEXT, LINE_TEXT.map(lambda text: f"a.wav\t5\t{text}")
    ),
)
def test_malformed_line_is_named_wherever_it_is(
    folder: Path, before: int, after: int, bad: str
) -> None:
    file = folder / "train.tsv"
    lines = [".", *["a.wav\t5"] * before, bad, *["b.wav\t6"] * after]
    file.write_bytes("\n".join(lines).encode())

    with pytest.raises(InputError) as error:
        read_manifest(file)

    assert_names(error, f"{file}:{before + 2}")


@REPRODUCIBLE
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(folder: Path, content: bytes) -> None:
    file = folder / "train.tsv"

    for prefix in (b"", b".\n", b".\na.wav\t5\n"):
        file.write_bytes(prefix + content)

        manifest = read_or_refuse(file)
        if manifest is not None:
            assert_is_sound(manifest)


@REPRODUCIBLE
@given(tokens=st.lists(st.sampled_from([*ODD_TOKENS, "a.wav", ".\n", "\t5\n"]), max_size=25))
def test_anything_that_looks_like_a_manifest_is_read_or_refused(
    folder: Path, tokens: list[str]
) -> None:
    file = folder / "train.tsv"
    file.write_bytes(("".join(tokens)).encode())

    manifest = read_or_refuse(file)

    if manifest is not None:
        assert_is_sound(manifest)
        # What was read can be written again, but for a carriage return within a line.
        if any("\r" in text for text in (str(manifest.root), *map(str, manifest.entries))):
            with pytest.raises(InputError, match=r"\\r"):
                write_manifest(file, manifest.root, manifest.entries)
        else:
            write_manifest(file, manifest.root, manifest.entries)
            assert read_manifest(file).entries == manifest.entries


@REPRODUCIBLE
@given(
    lines=st.lists(LINE_TEXT, min_size=1, max_size=5),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    content=st.binary(max_size=60),
)
def test_transcripts_are_read_line_by_line_or_refused(
    folder: Path, lines: list[str], line_end: bytes, content: bytes
) -> None:
    write_manifest(folder / "train.tsv", ".", [ManifestEntry("a.wav", 5)] * len(lines))
    manifest = read_manifest(folder / "train.tsv")
    file = folder / "train.wrd"

    # The mark that a first line may begin with is not part of it.
    lines[0] = lines[0].lstrip("\ufeff")
    file.write_bytes(b"".join(line.encode() + line_end for line in lines))
    assert read_transcripts(file, manifest) == lines

    file.write_bytes(content)
    try:
        assert len(read_transcripts(file, manifest)) == len(lines)
    except InputError as ex:
        assert_names(ex, file)


def test_zeros_before_a_number_change_nothing(folder: Path) -> None:
    file = folder / "train.tsv"
    zeros = "0" * 5000
    file.write_text(f".\na.wav\t{zeros}5\nb.wav:{zeros}:{zeros}7\t+7\n")

    assert read_manifest(file).entries == (
        ManifestEntry("a.wav", 5),
        ManifestEntry("b.wav", 7, 0, is_slice=True),
    )
