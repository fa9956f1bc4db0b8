"""``eqssl labels``: what it writes and says, what it refuses, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from label_runs import make_labels, make_run, read_km, read_tree, require_refusal
from numpy.typing import NDArray

from eqssl_speech import cli
from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.data.manifest import read_manifest
from eqssl_speech.labels.codebook import read_codebook
from eqssl_speech.labels.settings import MFCC, count_frames
from eqssl_speech.tasks.labels.subset import share_budget

MakeCorpus = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: MakeCorpus) -> Path:
    return make_corpus(tmp_path / "corpus", num_train=4, num_valid=2)


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Return a function that runs the command and wants it to refuse in a sentence."""
    return partial(require_refusal, capsys)


def test_the_files_are_those_of_fairseq(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "labels"
    assert make_labels(corpus, out) == 0

    for source in load_corpus(corpus).sources:
        for split in ("train", "valid"):
            manifest = read_manifest(source.manifest_file(split))
            lines = read_km(out / source.name / f"{split}.km")

            assert [len(x) for x in lines] == [
                count_frames(entry.num_samples, MFCC) for entry in manifest.entries
            ]
            assert {label for line in lines for label in line} <= set(range(8))

    assert (out / "dict.km.txt").read_text() == "".join(f"{i} 1\n" for i in range(8))
    assert read_codebook(out / "codebook.safetensors").centroids.shape == (8, 39)
    assert (out / "quality.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / ".work").exists()

    captured = capsys.readouterr()
    assert "labels of MFCCs, 100 a second" in captured.out
    assert [x.split()[0] for x in captured.out.splitlines()[5:8]] == ["en", "de", "all"]
    assert f"Labels are complete in {out}" in captured.out

    # Once more: nothing but the table.
    tree = read_tree(out)
    assert make_labels(corpus, out) == 0
    assert capsys.readouterr().out == captured.out
    assert read_tree(out) == tree


def test_labels_do_not_depend_on_the_number_of_threads(tmp_path: Path, corpus: Path) -> None:
    make_run(tmp_path / "run")

    for name, args in (("mfcc", []), ("layer", ["--checkpoint", tmp_path / "run", "--layer", 2])):
        for jobs in (1, 3):
            assert make_labels(corpus, tmp_path / f"{name}{jobs}", *args, "--jobs", jobs) == 0

        assert read_tree(tmp_path / f"{name}1") == read_tree(tmp_path / f"{name}3")

    stamp = json.loads((tmp_path / "layer1" / "labels.json").read_text())
    assert stamp["frame_rate"] == 50.0
    assert stamp["settings"]["precision"] == "float32"


def test_recordings_that_cannot_be_read_are_named_and_have_empty_lines(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "en" / "audio" / "train-001.flac").unlink()
    # Only decoding finds this one.
    flac = corpus / "de" / "audio" / "train-001.flac"
    content = bytearray(flac.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    flac.write_bytes(bytes(content))

    assert make_labels(corpus, tmp_path / "labels") == 0

    err = capsys.readouterr().err
    assert "left out (missing): en/train.tsv:3: audio/train-001.flac" in err
    assert re.search(
        r"left out \((unreadable|truncated)\): de/train\.tsv:3: audio/train-001\.f", err
    )
    assert re.search(
        r"2 of 12 utterances left out: 1 missing, 1 \w+; mend them, and label into another OUT with "
        rf"`--codebook {tmp_path / 'labels'}`, which keeps the clusters\.\n",
        err,
    )

    for source in ("en", "de"):
        lines = (tmp_path / "labels" / source / "train.km").read_text().split("\n")
        assert [bool(line) for line in lines] == [True, False, True, True, False]

    stamp = json.loads((tmp_path / "labels" / "labels.json").read_text())
    assert stamp["sources"]["de"]["train"]["num_left_out"] == 1
    assert stamp["sources"]["de"]["valid"]["num_left_out"] == 0


def test_long_recordings_are_labelled_in_windows(
    tmp_path: Path, corpus: Path, write_audio: Callable[..., int]
) -> None:
    noise = 0.1 * np.random.default_rng(1).standard_normal(105 * 16_000).astype(np.float32)
    length = write_audio(corpus / "en" / "audio" / "long.wav", noise)
    with (corpus / "en" / "valid.tsv").open("a") as stream:
        stream.write(f"audio/long.wav\t{length}\n")
    make_run(tmp_path / "run")

    for name, args, hop in (("mfcc", [], 160), ("layer", ["--layer", 1], 320)):
        model = ["--checkpoint", tmp_path / "run"] if args else []
        assert make_labels(corpus, tmp_path / name, *args, *model) == 0

        line = read_km(tmp_path / name / "en" / "valid.km")[-1]
        assert len(line) == (length - 400) // hop + 1


def test_sources_with_codebooks_of_their_own_share_no_label(tmp_path: Path, corpus: Path) -> None:
    out = tmp_path / "labels"
    assert make_labels(corpus, out, "--per-source") == 0

    used = {
        source: {label for line in read_km(out / source / "train.km") for label in line}
        for source in ("en", "de")
    }
    assert used["en"] <= set(range(8))
    assert used["de"] <= set(range(8, 16))
    assert (out / "dict.km.txt").read_text().count("\n") == 16
    assert {f.name for f in out.glob("codebook*")} == {
        "codebook-en.safetensors",
        "codebook-de.safetensors",
    }


def test_a_codebook_labels_other_data_as_it_labelled_its_own(
    tmp_path: Path, corpus: Path, refuse: Callable[..., None]
) -> None:
    for name, args in (("shared", []), ("own", ["--per-source"])):
        first, again = tmp_path / name, tmp_path / f"{name}2"
        assert make_labels(corpus, first, *args) == 0

        given = ["--split", "valid", "--source", "de", "--codebook", first]
        assert make_labels(corpus, again, *given) == 0

        assert {f.name for f in again.rglob("*.km")} == {"valid.km"}
        assert (again / "de/valid.km").read_bytes() == (first / "de/valid.km").read_bytes()
        assert (again / "dict.km.txt").read_bytes() == (first / "dict.km.txt").read_bytes()


def test_other_sample_rates_and_channels_are_converted_if_asked(
    tmp_path: Path, make_corpus: MakeCorpus, refuse: Callable[..., None]
) -> None:
    corpus = make_corpus(
        tmp_path / "corpus", sources=["en"], sample_rate=8000, num_channels=2, formats=["wav"]
    )

    refuse(
        "none of its 6 utterances can be used, .* convert them with `--resample`",
        corpus,
        tmp_path / "a",
    )

    out = tmp_path / "b"
    assert make_labels(corpus, out, "--resample", "--downmix") == 0

    manifest = read_manifest(corpus / "en" / "train.tsv")
    assert [len(line) for line in read_km(out / "en" / "train.km")] == [
        count_frames(2 * entry.num_samples, MFCC) for entry in manifest.entries
    ]


def test_phones_are_measured_where_they_are_known(
    tmp_path: Path, corpus: Path, refuse: Callable[..., None]
) -> None:
    manifest = read_manifest(corpus / "en" / "train.tsv")
    lines = [f"{entry} 1 0.000 0.300 a\n{entry} 1 0.300 0.400 b\n" for entry in manifest.entries]
    phones = corpus / "en" / "train.phones.ctm"
    phones.write_text("".join(lines[:3]))

    out = tmp_path / "labels"
    assert make_labels(corpus, out) == 0

    quality = json.loads((out / "quality.json").read_text())
    found = quality["sources"]["en"]["phones"]
    assert quality["sources"]["de"]["phones"] is None
    assert quality["splits"]["en"]["train"]["phones"] == found == quality["all"]["phones"]
    # Middles from 12.5 ms to 692.5 ms.
    assert (found["num_phones"], found["num_labels"]) == (2, 3 * 69)
    assert 30 / 69 <= found["phone_purity"] <= 1.0

    # Before hours of work, not after them.
    phones.write_text("audio/unknown.wav 1 0.0 0.1 a\n")
    refuse(r"train\.phones\.ctm", corpus, tmp_path / "again")
    assert set(read_tree(tmp_path / "again")) == {"labels.json"}


def test_a_budget_is_shared_alike_by_those_who_have_enough() -> None:
    assert share_budget([10.0, 10.0, 10.0], 15.0) == [5.0, 5.0, 5.0]
    assert share_budget([9.0, 1.0, 20.0], 15.0) == [7.0, 1.0, 7.0]
    assert share_budget([3.0, 1.0, 2.0], 15.0) == [3.0, 1.0, 2.0]
    assert sum(share_budget(list(np.arange(1.0, 30.0)), 100.0)) == pytest.approx(100.0)


def test_what_is_clustered_is_of_each_source_as_much(
    tmp_path: Path, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eqssl_speech.tasks.labels import subset

    drawn: list[dict[str, int]] = []
    draw = subset.draw_subset

    def look(*args: object, **more: object) -> object:
        made = draw(*args, **more)  # type: ignore[arg-type]
        drawn.append({n: sum(x.window.num_frames for x in items) for n, items in made.items()})

        return made

    monkeypatch.setattr(subset, "draw_subset", look)
    corpus = make_corpus(tmp_path / "corpus", num_train=10)

    args = ["--hours-for-clustering", 0.002, "--clusters", 4]
    assert make_labels(corpus, tmp_path / "a", *args, "--seed", 3) == 0

    # 3.6 s of each, and at most an utterance more.
    assert all(360 <= count < 360 + 200 for count in drawn[0].values())

    assert make_labels(corpus, tmp_path / "b", *args, "--seed", 4) == 0
    assert drawn[1] != drawn[0]


def test_the_examples_of_the_help_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["labels", "--help"])

    examples = re.findall(
        r"^  (?:torchrun .* -m )?eqssl\w* (labels .+)$", capsys.readouterr().out, re.M
    )
    assert len(examples) == 6

    for example in examples:
        cli._create_parser().parse_args(shlex.split(example))


def test_threads_of_torch_are_as_before(tmp_path: Path, corpus: Path) -> None:
    before = torch.get_num_threads()

    assert make_labels(corpus, tmp_path / "labels") == 0
    assert torch.get_num_threads() == before


def test_silence_is_labelled(
    tmp_path: Path,
    write_audio: Callable[..., int],
    corpus: Path,
    make_speech: Callable[..., NDArray[np.float32]],
) -> None:
    manifest = corpus / "en" / "train.tsv"
    length = write_audio(corpus / "en" / "audio" / "silence.wav", np.zeros(20_000, np.float32))
    with manifest.open("a") as stream:
        stream.write(f"audio/silence.wav\t{length}\n")

    assert make_labels(corpus, tmp_path / "labels") == 0

    line = read_km(tmp_path / "labels" / "en" / "train.km")[-1]
    assert len(line) == count_frames(length, MFCC)
    assert len(set(line)) == 1
