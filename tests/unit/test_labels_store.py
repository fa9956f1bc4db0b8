"""Labels are read for the frames that they belong to, and refused if they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import edit_stamp, forge, make_labels, make_run, read_km

from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.data.manifest import ManifestEntry, read_manifest, write_manifest
from eqssl_speech.error import InputError
from eqssl_speech.labels import LabelStore
from eqssl_speech.labels.settings import MFCC, count_frames
from eqssl_speech.labels.store import LabelledSplit

Made = tuple[Path, Path, Path]


_MADE: list[Made] = []


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Path]) -> Made:
    """A corpus with a recording that cannot be read, its labels of MFCCs, and those of a layer; made once."""
    if not _MADE:
        directory = tmp_path_factory.mktemp("labels")

        corpus = make_corpus(directory / "corpus", num_train=5, num_valid=2, slices=True)
        (corpus / "de" / "audio" / "train-001.flac").write_bytes(b"nothing")
        make_run(directory / "run")

        assert make_labels(corpus, directory / "mfcc") == 0
        model = ["--checkpoint", directory / "run", "--layer", 1, "--clusters", 6]
        assert make_labels(corpus, directory / "layer", *model) == 0

        _MADE.append((corpus, directory / "mfcc", directory / "layer"))

    return _MADE[0]


@pytest.fixture
def labels(made: Made, tmp_path: Path) -> Path:
    """A copy of the labels of MFCCs, to be damaged."""
    return Path(shutil.copytree(made[1], tmp_path / "labels"))


def splits_of(corpus: Path) -> list[LabelledSplit]:
    return [
        (source.name, split, read_manifest(source.manifest_file(split)))
        for source in load_corpus(corpus).sources
        for split in ("train", "valid")
    ]


def open_store(corpus: Path, *directories: Path, **more: int) -> LabelStore:
    return LabelStore.open(directories, splits_of(corpus), **{"sample_rate": 16_000, **more})


def assert_refused(corpus: Path, directories: Sequence[Path], message: str, **more: int) -> None:
    with pytest.raises(InputError, match=message) as info:
        open_store(corpus, *directories, **more)

    # A sentence that says what to do.
    assert str(info.value).endswith(".")
    assert ";" in str(info.value)


def test_each_frame_has_the_label_that_begins_where_it_does(made: Made) -> None:
    corpus, mfcc, layer = made
    store = open_store(corpus, mfcc, layer)

    assert store.num_codes == (8, 6)
    assert store.crop_multiple == 320

    for source, split, manifest in splits_of(corpus):
        lines = [read_km(directory / source / f"{split}.km") for directory in (mfcc, layer)]

        for entry_nr in range(len(manifest.entries)):
            if not store.is_labelled(manifest, entry_nr):
                continue

            fine, coarse = (of_set[entry_nr] for of_set in lines)
            num_frames = len(coarse)

            whole = store.read(manifest, entry_nr, start=0, num_frames=num_frames)
            assert whole.dtype == np.int64
            assert whole.tolist() == [fine[: 2 * num_frames : 2], coarse]

            crop = store.read(manifest, entry_nr, start=3 * 320, num_frames=20)
            np.testing.assert_array_equal(crop, whole[:, 3:23])


def test_a_recording_that_cannot_be_read_has_no_labels(made: Made) -> None:
    corpus, mfcc, layer = made
    store = open_store(corpus, mfcc, layer)

    unlabelled = {
        (source, split, manifest.entries[i].path)
        for source, split, manifest in splits_of(corpus)
        for i in range(len(manifest.entries))
        if not store.is_labelled(manifest, i)
    }

    assert unlabelled == {("de", "train", "audio/train-001.flac")}


def test_labels_are_read_in_many_threads(made: Made) -> None:
    corpus, mfcc, layer = made
    store = open_store(corpus, mfcc, layer)
    places = [
        (manifest, i)
        for _, _, manifest in splits_of(corpus)
        for i in range(len(manifest.entries))
        if store.is_labelled(manifest, i)
    ]

    def read(place: Any) -> list[list[int]]:
        labels: list[list[int]] = store.read(*place, start=0, num_frames=40).tolist()

        return labels

    expected = [read(place) for place in places]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, places * 20)) == expected * 20


def test_a_crop_beyond_the_labels_is_refused(made: Made) -> None:
    corpus, mfcc, _ = made
    store = open_store(corpus, mfcc)
    _, _, manifest = splits_of(corpus)[0]
    num_labels = len(read_km(mfcc / "en" / "train.km")[0])

    with pytest.raises(InputError, match=rf"train\.tsv:2: has {num_labels} labels in .*mfcc, of w"):
        store.read(manifest, 0, start=0, num_frames=num_labels)


def test_the_digest_tells_labels_from_others(made: Made, labels: Path) -> None:
    corpus, mfcc, layer = made
    digest = open_store(corpus, mfcc).digest

    assert open_store(corpus, labels).digest == digest
    assert open_store(corpus, mfcc, layer).digest != digest
    assert open_store(corpus, layer).digest != digest

    lines = (labels / "en" / "valid.km").read_text().split("\n")
    lines[0] = " ".join(reversed(lines[0].split()))
    forge(labels, "en", "valid", "\n".join(lines))
    assert open_store(corpus, labels).digest != digest


def test_nothing_to_open_is_refused(made: Made, tmp_path: Path) -> None:
    corpus, mfcc, _ = made

    with pytest.raises(InputError, match="There is no directory of labels; make one with `eqssl"):
        open_store(corpus)

    assert_refused(
        corpus, [tmp_path / "none"], r"none: holds no labels, as there is no labels\.json"
    )
    assert_refused(corpus, [mfcc, mfcc.parent / "." / "mfcc"], "mfcc: is listed twice; list every")


def test_labels_without_a_stamp_or_with_a_damaged_one_are_refused(made: Made, labels: Path) -> None:
    corpus = made[0]
    file = labels / "labels.json"
    content = file.read_text()

    for damage in (
        content[:-20],
        "",
        "[]",
        "{}",
        content.replace('"splits"', '"x"').replace("hop", "h"),
    ):
        file.write_text(damage)
        assert_refused(
            corpus, [labels], r"labels\.json: is damaged; it is written by `eqssl labels`"
        )

    file.write_text(json.dumps({**json.loads(content), "version": 2}))
    assert_refused(
        corpus, [labels], r"labels\.json: is of another version .*\(2, not 1\); make the"
    )

    file.unlink()
    assert_refused(
        corpus, [labels], r"labels: holds no labels, as there is no labels\.json; give a"
    )


def test_unfinished_labels_are_refused(made: Made, labels: Path) -> None:
    edit_stamp(labels, lambda stamp: stamp.update(finished=False))

    assert_refused(
        made[0], [labels], "its labels are not finished; run the same `eqssl labels` again"
    )


def test_labels_of_another_frame_rate_are_refused(made: Made, labels: Path) -> None:
    corpus, mfcc, layer = made

    # A model of 100 frames a second takes MFCCs, but not labels that come half as often.
    open_store(corpus, mfcc, frame_stride=160)
    assert_refused(
        corpus,
        [layer],
        "layer: has 50 labels a second, but the model makes 100 frames a second",
        frame_stride=160,
    )
    assert_refused(
        corpus,
        [mfcc],
        "labels are of audio of 16000 Hz, but the model takes 8000",
        sample_rate=8000,
    )

    edit_stamp(labels, lambda stamp: stamp.update(frame_rate=50.0))
    assert_refused(
        corpus, [labels], r"says 50 labels a second, but 160 samples of 16000 Hz between t"
    )


def test_labels_that_are_off_by_a_frame_rate_are_refused(made: Made, labels: Path) -> None:
    corpus = made[0]
    lines = read_km(labels / "en" / "train.km")
    halved = "".join(" ".join(map(str, line[::2])) + "\n" for line in lines)
    forge(labels, "en", "train", halved)

    num_samples = splits_of(corpus)[0][2].entries[0].num_samples
    expected = count_frames(num_samples, MFCC)

    assert_refused(
        corpus,
        [labels],
        rf"train\.km:1: has {len(lines[0][::2])} labels, but the {num_samples} samples of `audio/train-000\.wav` "
        f"have {expected} at 100 a second; make them anew into another directory",
    )


def test_labels_of_another_corpus_are_refused(made: Made, labels: Path, tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(made[0], tmp_path / "moved"))

    # It may be moved.
    open_store(corpus, labels)

    manifest = read_manifest(corpus / "de" / "valid.tsv")
    first, second = manifest.entries

    for entries in (
        [first],
        [second, first],
        [first, second, ManifestEntry("audio/x.wav", 16_000)],
        [ManifestEntry(first.path, first.num_samples + 1), second],
    ):
        write_manifest(manifest.file, ".", entries)
        assert_refused(
            corpus,
            [labels],
            "its labels of the split `valid` of the source `de` are of another corpus, as their manifest had 2",
        )


def test_sources_and_splits_without_labels_are_refused(made: Made, labels: Path) -> None:
    edit_stamp(labels, lambda stamp: stamp["sources"]["de"].pop("valid"))
    assert_refused(
        made[0], [labels], "has no labels of the split `valid` of the source `de`; make t"
    )

    edit_stamp(labels, lambda stamp: stamp["sources"].pop("de"))
    assert_refused(
        made[0], [labels], "has no labels of the split `train` of the source `de`; make t"
    )


def test_a_label_file_that_was_cut_altered_or_lost_is_refused(made: Made, labels: Path) -> None:
    corpus, _, layer = made
    file = labels / "en" / "train.km"
    content = file.read_bytes()

    for damage in (
        content[:-1],
        content[: len(content) // 2],
        content + b"\n",
        content[:-3] + b"7 7\n",
    ):
        file.write_bytes(damage)
        assert_refused(
            corpus, [labels], r"train\.km: is cut off or altered, as it is not the file th"
        )

    # Of other labels, which were once made there.
    shutil.copy(layer / "en" / "train.km", file)
    assert_refused(corpus, [labels], r"train\.km: is cut off or altered")

    file.unlink()
    assert_refused(
        corpus, [labels], r"train\.km: there is no such label file; copy the directory of"
    )


def test_lines_that_are_not_the_manifests_are_refused(made: Made, labels: Path) -> None:
    content = (labels / "en" / "valid.km").read_text()
    forge(labels, "en", "valid", content.partition("\n")[2])

    assert_refused(
        made[0], [labels], r"valid\.km: has 1 lines, but .*valid\.tsv has 2 utterances; ma"
    )


def test_splits_of_different_codebooks_are_refused(made: Made, labels: Path) -> None:
    edit_stamp(labels, lambda stamp: stamp["sources"]["en"]["valid"].update(codebook="f" * 64))

    assert_refused(
        made[0],
        [labels],
        r"the split `valid` of the source `en` are of another codebook \(ffffffffffff\) than that of its other",
    )


def test_a_codebook_that_is_not_the_labels_is_refused(made: Made, labels: Path) -> None:
    corpus, _, layer = made
    file = labels / "codebook.safetensors"

    shutil.copy(layer / "codebook.safetensors", file)
    assert_refused(
        corpus, [labels], "is a codebook of layer 1 of the wav2vec2 checkpoint .*, but the"
    )

    file.unlink()
    assert_refused(
        corpus, [labels], r"codebook\.safetensors: there is no such codebook; copy the dir"
    )

    other = labels.parent / "other"
    assert make_labels(corpus, other, "--seed", 7) == 0
    shutil.copy(other / "codebook.safetensors", file)
    assert_refused(
        corpus, [labels], r"safetensors: is not the codebook that the labels were made wit"
    )


def test_codebooks_whose_labels_overlap_are_refused(made: Made, tmp_path: Path) -> None:
    corpus = made[0]
    out = tmp_path / "own"
    assert make_labels(corpus, out, "--per-source") == 0
    assert open_store(corpus, out).num_codes == (16,)

    edit_stamp(out, lambda stamp: stamp["codebooks"]["de"].update(first_label=7))
    assert_refused(
        corpus, [out], r"labels\.json: the labels of its codebooks overlap or leave gaps"
    )


def test_label_sets_that_do_not_fit_each_other_are_refused(made: Made, labels: Path) -> None:
    corpus, _, layer = made
    lines = read_km(labels / "en" / "valid.km")
    lines[1] = lines[1][:-4]
    forge(labels, "en", "valid", "".join(" ".join(map(str, line)) + "\n" for line in lines))

    # Where recordings were resampled, the manifest does not say how many labels there are.
    edit_stamp(labels, lambda stamp: stamp["settings"].update(resample=True))

    open_store(corpus, labels)
    assert_refused(
        corpus,
        [labels, layer],
        r"labels and .*layer: do not fit each other, as they have labels of \d+",
    )


def test_a_file_that_changes_while_it_is_used_is_named(made: Made, labels: Path) -> None:
    store = open_store(made[0], labels)
    _, _, manifest = splits_of(made[0])[0]

    with (labels / "en" / "train.km").open("r+") as stream:
        stream.write("9" * 40)

    with pytest.raises(
        InputError, match=r"train\.km:1: the line is not as it was when the labels we"
    ):
        store.read(manifest, 0, start=0, num_frames=5)
