"""``eqssl labels`` refuses in a sentence, before it writes, what it cannot do or what would mix labels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from label_runs import edit_stamp, make_labels, make_run, read_tree, require_refusal

from eqssl_speech.data.manifest import read_manifest
from eqssl_speech.labels.settings import MFCC, count_frames

MakeCorpus = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: MakeCorpus) -> Path:
    return make_corpus(tmp_path / "corpus", num_train=4, num_valid=2)


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Return a function that runs the command and wants it to refuse in a sentence."""
    return partial(require_refusal, capsys)


def test_other_settings_than_those_of_the_labels_are_refused(
    tmp_path: Path, corpus: Path, refuse: Callable[..., None]
) -> None:
    out = tmp_path / "labels"
    make_run(tmp_path / "run")
    make_run(tmp_path / "other", seed=2)
    model = ["--checkpoint", tmp_path / "run"]
    assert make_labels(corpus, out, *model, "--layer", 1) == 0
    tree = read_tree(out)

    for args, difference in (
        ([], "`--features` is layer there but mfcc now"),
        ([*model, "--layer", 2], "`--layer` is 1 there but 2 now"),
        (["--checkpoint", tmp_path / "other", "--layer", 1], "the model of `--checkpoint` is "),
        ([*model, "--layer", 1, "--clusters", 9], "`--clusters` is 8 there but 9 now"),
        ([*model, "--layer", 1, "--seed", 2], "`--seed` is 1 there but 2 now"),
        ([*model, "--layer", 1, "--per-source"], "`--per-source` is not given there but given now"),
        ([*model, "--layer", 1, "--resample"], "`--resample` is not given there but given now"),
        (
            [*model, "--layer", 1, "--hours-for-clustering", 2],
            "`--hours-for-clustering` is 10.0 there but 2.0 now",
        ),
        (
            [*model, "--layer", 1, "--codebook", out],
            "`--codebook` is not given there but [0-9a-f]+ n",
        ),
    ):
        refuse(f"labels: holds labels that were made otherwise: {difference}", corpus, out, *args)

    refuse(
        r"of other splits or sources: `train` of `de` is not asked for now; use another OUT \(w",
        corpus,
        out,
        *model,
        "--layer",
        1,
        "--source",
        "en",
    )

    with (corpus / "de" / "valid.tsv").open("a") as stream:
        stream.write("audio/train-000.wav\t1\n")
    refuse(
        "another corpus: the manifest `valid` of `de` lists other utterances now",
        corpus,
        out,
        *model,
        "--layer",
        1,
    )

    assert read_tree(out) == tree


def test_what_cannot_be_labelled_is_refused_before_anything_is_written(
    tmp_path: Path, corpus: Path, refuse: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    make_run(tmp_path / "run")
    model = ["--checkpoint", tmp_path / "run"]

    refuse(
        "nowhere: there is no such corpus directory; correct the path", tmp_path / "nowhere", out
    )
    refuse(
        "the source `fr` is unknown; the known ones are `en`, `de`", corpus, out, "--source", "fr"
    )
    refuse(
        "test.tsv: the source `en` has no split `test`; make it, or c",
        corpus,
        out,
        "--split",
        "test",
    )
    refuse("The split `train` is listed twice", corpus, out, "--split", "train", "--split", "train")
    refuse(
        "Clusters are made of the split `train`, which is not among",
        corpus,
        out,
        "--split",
        "valid",
    )
    refuse(
        "none: there is no such checkpoint",
        corpus,
        out,
        "--checkpoint",
        tmp_path / "none",
        "--layer",
        1,
    )
    refuse("`--checkpoint` needs `--layer`", corpus, out, *model)
    refuse("`--layer` is of a model; give `--checkpoint` as well", corpus, out, "--layer", 1)
    for device in ("auto", "cpu"):
        refuse("`--device` is of a model; give `--ch", corpus, out, "--device", device)
    refuse("`--layer` must be from 1 to 2", corpus, out, *model, "--layer", 3)
    refuse(
        "Give either `--features mfcc` or `--checkpoint`", corpus, out, *model, "--features", "mfcc"
    )
    refuse(
        "there is no checkpoint of step 7; there are those of 5",
        corpus,
        out,
        *model,
        "--layer",
        1,
        "--step",
        7,
    )
    refuse(
        "The device `abacus` cannot be used",
        corpus,
        out,
        *model,
        "--layer",
        1,
        "--device",
        "abacus",
    )
    refuse("`--seed` must be at least 0, but is -1", corpus, out, "--seed", -1)

    assert not out.exists()

    out.mkdir()
    (out / "notes.txt").write_text("mine")
    refuse("out: holds other files, but no labels.json; give a new directory", corpus, out)
    assert read_tree(out) == {"notes.txt": b"mine"}


def test_too_little_audio_and_none_at_all_are_refused(
    tmp_path: Path, corpus: Path, refuse: Callable[..., None]
) -> None:
    refuse(
        "There are [0-9]+ frames of audio for 5000 clusters; lower `--clusters`",
        corpus,
        tmp_path / "a",
        "--clusters",
        5000,
    )

    for file in (corpus / "de" / "audio").iterdir():
        file.write_bytes(b"nothing")
    refuse(
        "none of its 4 utterances can be used, such as line 2, .*train-000.wav",
        corpus,
        tmp_path / "b",
    )


def test_too_little_audio_of_a_source_is_named_before_features_are_computed(
    tmp_path: Path, make_corpus: MakeCorpus, refuse: Callable[..., None]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", num_train=4)
    lines = (corpus / "de" / "train.tsv").read_text().splitlines()
    (corpus / "de" / "train.tsv").write_text("\n".join(lines[:2]) + "\n")
    num_frames = count_frames(
        read_manifest(corpus / "de" / "train.tsv").entries[0].num_samples, MFCC
    )

    out = tmp_path / "out"
    refuse(
        f"There are {num_frames} frames of audio of the source `de` for {num_frames + 1} clusters; ",
        corpus,
        out,
        "--per-source",
        "--clusters",
        num_frames + 1,
    )
    assert not (out / ".work" / "features").exists()

    # The advice can be followed: nothing was made of what was asked for.
    assert make_labels(corpus, out, "--per-source", "--clusters", 5) == 0
    assert make_labels(corpus, tmp_path / "new", "--per-source", "--clusters", 5) == 0
    assert read_tree(out) == read_tree(tmp_path / "new")


def test_a_disk_without_room_for_the_features_is_refused(
    tmp_path: Path,
    corpus: Path,
    refuse: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    num_frames = sum(
        count_frames(entry.num_samples, MFCC)
        for source in ("en", "de")
        for entry in read_manifest(corpus / source / "train.tsv").entries
    )
    needed = 39 * 4 * num_frames

    usage = shutil.disk_usage(tmp_path)

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))

    leave(needed - 1)
    refuse(
        rf"out: the features that are clustered take {needed / 1e6:.2f} MB there .*, but only .* free; free some",
        corpus,
        out,
    )
    assert not (out / ".work" / "features").exists()

    leave(needed)
    assert make_labels(corpus, out) == 0


def test_codebooks_that_cannot_be_used_are_refused(
    tmp_path: Path, corpus: Path, refuse: Callable[..., None]
) -> None:
    for name, args in (("shared", []), ("own", ["--per-source"])):
        assert make_labels(corpus, tmp_path / name, *args) == 0

    out = tmp_path / "out"
    make_run(tmp_path / "run")
    model = ["--checkpoint", tmp_path / "run", "--layer", 1]

    refuse(
        "shared: its codebook is of MFCCs, but the features are layer 1 of the wav2vec2 checkp",
        corpus,
        out,
        *model,
        "--codebook",
        tmp_path / "shared",
    )
    refuse(
        "none: holds no labels whose codebook could be used, as there is no labels.json; give",
        corpus,
        out,
        "--codebook",
        tmp_path / "none",
    )
    refuse(
        "`--clusters` is about making clusters, which `--codebook` already has",
        corpus,
        out,
        "--clusters",
        8,
        "--codebook",
        tmp_path / "own",
    )
    refuse(
        "`--per-source` is about making clusters, which",
        corpus,
        out,
        "--per-source",
        "--codebook",
        tmp_path / "own",
    )

    assert make_labels(corpus, tmp_path / "de", "--per-source", "--source", "de") == 0
    refuse(
        "de: has codebooks per source, but none of the source `en`; its sources are `de`, so",
        corpus,
        out,
        "--codebook",
        tmp_path / "de",
    )

    edit_stamp(tmp_path / "shared", lambda stamp: stamp.update(finished=False))
    refuse(
        "holds no labels whose codebook could be used, as it is not finished",
        corpus,
        out,
        "--codebook",
        tmp_path / "shared",
    )
    assert not out.exists()
