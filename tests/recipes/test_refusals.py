"""What a user gets wrong ends before the first step: one sentence, exit status 2, nothing written over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_runs import TWO_STEPS, assert_refused


def edit_lines(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))


def first_audio(corpus: Path, source: str, split: str = "train") -> Path:
    return (
        corpus
        / source
        / (corpus / source / f"{split}.tsv").read_text().splitlines()[1].split("\t")[0]
    )


def break_manifest_missing(corpus: Path) -> None:
    (corpus / "de" / "train.tsv").unlink()


def break_audio_root(corpus: Path) -> None:
    edit_lines(corpus / "de" / "train.tsv", lambda lines: ["no-such-folder", *lines[1:]])


def break_length_missing(corpus: Path) -> None:
    edit_lines(
        corpus / "de" / "train.tsv", lambda lines: [*lines[:3], lines[3].split("\t")[0], *lines[4:]]
    )


def break_length_wrong(corpus: Path) -> None:
    edit_lines(
        corpus / "de" / "train.tsv",
        lambda lines: [*lines[:3], lines[3].split("\t")[0] + "\t12345", *lines[4:]],
    )


def break_empty(corpus: Path) -> None:
    edit_lines(corpus / "de" / "train.tsv", lambda lines: lines[:1])


@pytest.mark.parametrize(
    ("break_corpus", "words"),
    [
        (break_manifest_missing, ["de/train.tsv"]),
        (break_audio_root, ["de/train.tsv:1", "no-such-folder"]),
        (break_length_missing, ["de/train.tsv:4", "length"]),
        (break_length_wrong, ["de/train.tsv:4", "12345"]),
        (break_empty, ["de/train.tsv"]),
    ],
)
def test_broken_manifest_is_refused(corpus, start, tmp_path, break_corpus, words):
    break_corpus(corpus)

    assert_refused(start(corpus), tmp_path / "out", *words)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ({"sample_rate": 8000}, ["8000 Hz", "dataset.resample=true"]),
        ({"num_channels": 2}, ["channel", "dataset.downmix=true"]),
    ],
)
def test_source_of_another_format_is_refused_and_taken_on_request(
    make_corpus, start, tmp_path, audio, words
):
    corpus = make_corpus(tmp_path / "corpus", num_train=8, num_valid=2, **audio)

    assert_refused(start(corpus), tmp_path / "out", *words)

    status, output = start(corpus, dataset__resample="true", dataset__downmix="true")

    assert status == 0, output


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"dataset__sources": "[en, df]"}, ["`df`", "`de`"]),
        ({"equilibrium__inner_lr": 0}, ["inner_lr", "greater than 0"]),
        ({"equilibrium__inner_lr": -0.1}, ["inner_lr", "-0.1"]),
        ({"equilibrium__num_inner_steps": -1}, ["num_inner_steps", "-1"]),
        ({"equilibrium__outer_weights": "[1.0, 2.0, 3.0]"}, ["outer_weights"]),
        ({"dataset__audio_seconds_per_update": 2}, ["audio_seconds_per_update"]),
        ({"dataset__audio_seconds_per_update": 400}, ["en", "audio_seconds_per_update"]),
        ({"dataset__regime": "mixed"}, ["dataset.regime", "equilibrium"]),
        ({"dataset__rehearsal_sources": "[de]"}, ["rehearsal_sources", "sources_per_step"]),
        ({"dataset__rehearsal_sources": "[df]", "dataset__sources_per_step": 1}, ["rehearsal_sources", "df", "en"]),
        ({"dataset__rehearsal_sources": "[de, en]", "dataset__sources_per_step": 1}, ["rehearsal_sources", "all"]),
        ({"dataset__rehearsal_share": 1}, ["rehearsal_share", "less than 1"]),
        ({"model__arch": "basse"}, ["`model.arch` is 'basse'", "base, "]),
        ({"model__config_overrides__num_distractor": 9}, ["`model.config_overrides.num_distractor`"]),
        ({"dataset__corpus": "/nowhere/at/all"}, ["/nowhere/at/all"]),
        ({"lr_scheduler__config__num_warmup_steps": 300}, ["lr_scheduler.config.num_warmup_steps", "regime.num_steps"]),
        ({"trainer__mixed_precision__mode": "static", "trainer__mixed_precision__dtype": "float16"}, ["float16"]),
    ],
)  # fmt: skip
def test_impossible_configuration_is_refused(corpus, start, tmp_path, overrides, words):
    assert_refused(start(corpus, **overrides), tmp_path / "out", *words)


def test_directory_of_another_run_is_refused_and_left_as_it_is(corpus, pretrain):
    settings = TWO_STEPS | {"dataset.corpus": corpus}

    first = pretrain("out", base=settings)

    assert first.returncode == 0, first.output

    def read_files() -> dict[Path, bytes]:
        return {f: f.read_bytes() for f in first.directory.rglob("*") if f.is_file()}

    files = read_files()

    other = pretrain("out", {"equilibrium.inner_lr": 0.5}, base=settings)

    assert other.returncode == 2
    assert "equilibrium.inner_lr" in other.output
    assert read_files() == files

    # The same configuration goes on, also for longer, and computed as the host does; here one written before there was
    # a choice, of that and of a setting that may not change.
    config = first.directory / "config.yaml"
    text = config.read_text()
    older = text.replace("  fast: true\n", "").replace("  sampling_alpha: 1.0\n", "")
    assert len(text.splitlines()) == len(older.splitlines()) + 2
    config.write_text(older)

    longer = pretrain("out", {"regime.num_steps": 4, "model.fast": "false"}, base=settings)

    assert longer.returncode == 0, longer.output
    assert "Resuming from step 2" in longer.output


@pytest.mark.slow
def test_a_section_that_was_null_is_not_taken_for_one_of_defaults(corpus, pretrain):
    settings = TWO_STEPS | {"dataset.corpus": corpus}

    assert pretrain("out", {"equilibrium": "null"}, base=settings).returncode == 0

    other = pretrain("out", base=settings)

    assert other.returncode == 2
    assert "holds a run with another configuration (`equilibrium." in other.output


def test_broken_files_among_good_ones_are_named_counted_and_skipped(
    corpus, start, tmp_path, make_speech
):
    text, cut = first_audio(corpus, "en"), first_audio(corpus, "de")

    text.write_text("this is no recording\n")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])

    status, output = start(corpus)

    assert status == 0, output
    assert f"{text.name}" in output
    assert f"{cut.name}" in output
    assert "Left out (unreadable)" in output
    assert "Left out (truncated)" in output

    table = [line for line in output.splitlines() if "│ en " in line or "│ de " in line]

    assert all(line.split("│")[6].strip() == "1" for line in table)


def test_file_that_breaks_only_when_decoded_is_skipped_during_the_run(corpus, start, make_speech):
    """The header of a FLAC file that was cut off is whole."""
    file = corpus / "en" / "audio" / "cut.flac"

    soundfile.write(file, make_speech(1, 2.0), 16_000)

    length = soundfile.info(file).frames
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 4])

    edit_lines(corpus / "en" / "train.tsv", lambda lines: [*lines, f"audio/cut.flac\t{length}"])

    status, output = start(corpus, regime__num_steps=6)

    assert status == 0, output
    assert output.count("cut.flac") == 1


def test_hand_made_fairseq_manifests_train_unchanged(start, tmp_path, make_speech):
    """One folder as fairseq's script leaves it: an absolute root, three formats, whole files and slices."""
    audio = tmp_path / "audio"
    audio.mkdir()

    lines = []
    for i, suffix in enumerate(("flac", "wav", "ogg") * 3):
        file = audio / f"{i}.{suffix}"
        soundfile.write(file, np.tile(make_speech(i, 2.0), 2), 16_000)
        num_samples = soundfile.info(file).frames

        lines.append(f"{file.name}\t{num_samples}")
        lines.append(f"{file.name}:8000:24000\t24000")

    manifests = tmp_path / "libri"
    manifests.mkdir()

    for split, part in (("train", lines[:-4]), ("valid", lines[-4:])):
        (manifests / f"{split}.tsv").write_text("\n".join([str(audio), *part]) + "\n")

    status, output = start(manifests)

    assert status == 0, output
    assert "│ libri" in output
