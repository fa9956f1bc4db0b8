"""Readers of the packages' own formats, on files made by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from eqssl_speech.data.corpora import drascula
from eqssl_speech.data.corpora.clip import Clip, ClipError, decode_clip, load_clip, read_bytes
from eqssl_speech.data.corpora.drascula import character_group, parse_block
from eqssl_speech.data.corpora.festvox import list_festvox, parse_labels, parse_prompts
from eqssl_speech.data.corpora.fillets import list_fillets, parse_dialogs
from eqssl_speech.data.corpora.tuxpaint import list_tuxpaint, parse_descriptions
from eqssl_speech.data.corpora.untranscribed import list_prompts, list_queen, parse_queen_table
from eqssl_speech.data.phones import Phone
from eqssl_speech.error import InputError


def make_block(lines: dict[str, list[str]]) -> bytes:
    """Write a block of drascula.dat: line 0 is empty, each string begins with its length."""
    languages = ("en", "es", "de", "fr", "it", "other")
    block = struct.pack(">H", len(lines["en"]))
    for language in languages:
        strings = [s.encode("cp850") for s in lines.get(language, lines["en"])]
        body = b"\0\0\0".join(bytes([4 * len(s) or 4]) + s for s in strings) + b"\0"
        block += struct.pack(">H", len(body)) + body
    return block


def test_festvox_prompts_lose_their_stress_marks() -> None:
    content = '( ru_0001 "вол+ос за \\"ухо\\"." )\nnoise\n( ru_0002 "Да." )\n'

    assert parse_prompts(content) == {"ru_0001": 'волос за "ухо".', "ru_0002": "Да."}


def test_festvox_lists_recordings_with_and_without_text(tmp_path: Path) -> None:
    voice = tmp_path / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    for name in ("etc", "wav", "lab"):
        (voice / name).mkdir(parents=True)
    (voice / "lab/b.lab").write_text("#\n0.3 125 pau\n")
    (voice / "etc/txt.done.data").write_text('( a "Раз" )\n', encoding="utf-8")
    for name in "ab":
        (voice / f"wav/{name}.wav").touch()

    assert [(c.clip_id, c.text, c.phones) for c in list_festvox(tmp_path)] == [
        ("a", "Раз", None),
        ("b", "", (Phone(0.0, 0.3, "pau"),)),
    ]


def test_festvox_phone_begins_where_the_one_before_it_ends() -> None:
    content = "separator ;\nnfields 1\n#\n    0.34200 125 pau\n\t0.39200 125 k \n1 125 ay\n\n"

    assert parse_labels(content, "x.lab") == (
        Phone(0.0, 0.342, "pau"),
        Phone(0.342, 0.392, "k"),
        Phone(0.392, 1.0, "ay"),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0.3 125 pau\n", r"^x\.lab: has no line `#`"),
        ("#\n0.3 125\n", r"^x\.lab: `0\.3 125` is not `end_s colour phone`"),
        ("#\nnan 125 a\n", r"^x\.lab: `nan 125 a` is not"),
        ("#\n0.3 125 a\n0.3 125 b\n", r"^x\.lab: `0\.3 125 b` does not end after 0\.3 s"),
        ("#\n0 125 a\n", r"^x\.lab: `0 125 a` does not end after 0\.0 s"),
    ],
)
def test_festvox_labels_of_another_layout_are_refused(content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_labels(content, "x.lab")


def test_festvox_labels_that_are_no_text_are_refused(tmp_path: Path) -> None:
    voice = tmp_path / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    for name in ("etc/txt.done.data", "wav/a.wav", "lab/a.lab"):
        (voice / name).parent.mkdir(parents=True)
        (voice / name).touch()
    (voice / "lab/a.lab").write_bytes(b"#\n0.3 125 \xff\n")

    with pytest.raises(InputError, match=r"lab/a\.lab: cannot be read as UTF-8 text"):
        list_festvox(tmp_path)


def test_drascula_line_n_is_string_n_of_the_language() -> None:
    block = make_block({"en": ["", "NOT REALLY", "HI"], "it": ["", "PERCHÉ", "CIAO"]})
    content = b"junk" + block

    assert parse_block(content, 4, 3, "en") == ["", "NOT REALLY", "HI"]
    assert parse_block(content, 4, 3, "it") == ["", "PERCHÉ", "CIAO"]


def test_drascula_text_has_spaces_for_the_sign_that_the_game_has_instead() -> None:
    block = make_block({"en": ["", "HI"], "es": ["", "OºMEºPONESºUNºCUBATA"]})

    assert parse_block(block, 0, 2, "es") == ["", "O ME PONES UN CUBATA"]


def test_drascula_of_another_layout_is_refused() -> None:
    with pytest.raises(InputError, match="must have 4 lines at byte 0, but has 3"):
        parse_block(make_block({"en": ["", "A", "B"]}), 0, 4, "en")


def test_drascula_names_give_the_character_group() -> None:
    assert [character_group(name) for name in ("12", "VB3", "D84")] == ["", "VB", "D"]


def test_drascula_recordings_get_the_text_of_their_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, other = make_block({"en": ["", "ONE"]}), make_block({"en": ["", "TWO", "THREE"]})
    monkeypatch.setattr(drascula, "DIALOGUE_BLOCKS", (("", 0, 2), ("VB", len(main), 3)))
    folder = tmp_path / "usr/share/scummvm/drascula/en"
    folder.mkdir(parents=True)
    (folder / "drascula.dat").write_bytes(main + other)
    for name in ("1.ALS", "9.ALS", "VB2.ALS", "NOISE.ALS"):
        (folder / name).touch()

    clips = drascula.list_drascula(tmp_path, "en", tmp_path)

    assert {c.clip_id: c.text for c in clips} == {"1": "ONE", "9": "", "VB2": "THREE"}


def test_fillets_pairs_each_name_with_the_next_string() -> None:
    content = (
        'dialogId("a", "font", "English")\ndialogStr("Česky \\"zde\\".")\n'
        '-- dialogId("x", "font", "no")\n-- dialogStr("no")\n'
        'dialogId("b", "font",\n  "over two lines")\ndialogStr(\n  "Dva")\n'
        'dialogId("c", "font", "without text")\ndialogId("d", "font", "E")\ndialogStr("D")\n'
    )

    assert parse_dialogs(content) == {"a": 'Česky "zde".', "b": "Dva", "d": "D"}


def test_fillets_finds_text_of_levels_and_of_what_levels_share(tmp_path: Path) -> None:
    game = tmp_path / "usr/share/games/fillets-ng"
    for name in ("sound/city/cs", "sound/share/jokes/cs", "script/city", "script/share"):
        (game / name).mkdir(parents=True)
    (game / "sound/city/cs/a.ogg").touch()
    (game / "sound/share/jokes/cs/b.ogg").touch()
    (game / "script/city/dialogs_cs.lua").write_text('dialogId("a","f","x")\ndialogStr("Ahoj")')
    script = game / "script/share/jokes_dialogs_cs.lua"
    script.write_text('dialogId("b","f","x")\ndialogStr("Vtip")')

    clips = list_fillets(tmp_path, "cs", tmp_path)

    assert [(c.clip_id, c.text) for c in clips] == [("city/a", "Ahoj"), ("share/jokes/b", "Vtip")]


def test_tuxpaint_reads_the_line_of_the_language() -> None:
    texts = parse_descriptions("A cat.\nde.utf8=Eine Katze = Tier.\nru.utf8= Кошка. \nnoise\n")

    assert texts == {"en": "A cat.", "de": "Eine Katze = Tier.", "ru": "Кошка."}


def test_tuxpaint_greek_words_have_greek_letters_only() -> None:
    # The O, the T and the o are Latin here; words that are Latin, or that no Greek letter resembles, stay.
    lines = ("Oικόσιτo γουρούνι TV Tux.", "Tο Vω", "Кот Ozo")
    content = f"A pig.\nel.utf8={lines[0]}\ngrc.utf8={lines[1]}\nru.utf8={lines[2]}\n"

    texts = parse_descriptions(content)

    assert texts["el"] == "\u039fικόσιτ\u03bf γουρούνι TV Tux."
    assert texts["grc"] == "\u03a4\u03bf Vω"
    assert texts["ru"] == lines[2]


def test_tuxpaint_makes_a_source_of_each_language(tmp_path: Path) -> None:
    stamps = tmp_path / "usr/share/tuxpaint/stamps/animals"
    stamps.mkdir(parents=True)
    (stamps / "cat.txt").write_text("A cat.\nru.utf8=Кошка.\n", encoding="utf-8")
    for name in ("cat_desc_ru.ogg", "cat_desc_da.ogg.ogg", "cat.ogg"):
        (stamps / name).touch()

    clips = sorted(list_tuxpaint(tmp_path))

    assert [(c.source, c.clip_id, c.text) for c in clips] == [
        ("da-tuxpaint", "animals/cat", ""),
        ("ru-tuxpaint", "animals/cat", "Кошка."),
    ]


def test_prompts_leave_out_silence_and_other_languages(tmp_path: Path) -> None:
    sounds = tmp_path / "usr/share/asterisk/sounds"
    for name in ("ru_RU_f/digits/1.g722", "ru_RU_f/silence/1.g722", "ru_RU_f/a.txt", "es/b.gsm"):
        (sounds / name).parent.mkdir(parents=True, exist_ok=True)
        (sounds / name).touch()

    clips = list_prompts(tmp_path, "ru-asterisk", "ru")

    assert [(c.clip_id, c.encoding, c.text) for c in clips] == [("digits/1", "g722", None)]


def test_queen_table_gives_the_bytes_of_speech_but_not_of_effects(tmp_path: Path) -> None:
    entries = [(b"100001P1.SB", 78, 3), (b"116SSSSS.SB", 81, 2), (b"A.DOG", 83, 1)]
    table = b"QTBL" + b"VERSIO" + b"\0\0\x01" + struct.pack(">H", len(entries))
    for name, offset, size in entries:
        table += name.ljust(12, b"\0") + b"\1" + struct.pack(">II", offset, size)
    file = tmp_path / "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
    file.parent.mkdir(parents=True)
    file.write_bytes(table + b"abcdef")

    (clip,) = list_queen(tmp_path)

    assert clip.clip_id == "100001p1"
    assert read_bytes(clip) == b"abc"
    with pytest.raises(InputError, match="QTBL"):
        parse_queen_table(b"RIFF")


def test_headerless_bytes_are_centred_and_resampled(tmp_path: Path) -> None:
    file = tmp_path / "1.ALS"
    file.write_bytes(bytes([0, 128, 255, 128] * 2_757))
    clip = Clip("en-drascula", "1", file, encoding="u8")

    samples, rate = decode_clip(clip, read_bytes(clip))

    assert rate == 11_025
    np.testing.assert_array_equal(samples[:4], np.float32([-1.0, 0.0, 127 / 128, 0.0]))
    assert len(load_clip(clip)) == -(-11_028 * 16_000 // 11_025)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "missing file"), (b"", "empty file"), (b"text", "cannot be decoded")],
)
def test_unusable_recordings_are_told_apart(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "x.wav"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ClipError) as error:
        load_clip(Clip("s", "x", file))

    assert error.value.reason == reason
