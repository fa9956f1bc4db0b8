"""Labels that do not fit a run, or a run that does not fit its labels: one sentence, exit status 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_runs import assert_refused, make_labels

Start = Callable[..., tuple[int, str]]

HUBERT = {"model__family": "hubert"}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the labels of the corpus are, once a test has made them: it is the same in each."""
    return tmp_path_factory.mktemp("made_once") / "labels"


@pytest.fixture
def labels(corpus: Path, tmp_path: Path, made_once: Path) -> Path:
    """The directory of the labels of the corpus, which the test may change."""
    if not made_once.exists():
        make_labels(corpus, made_once)

    return Path(shutil.copytree(made_once, tmp_path / "labels"))


def test_labels_that_fit_are_taken(corpus: Path, labels: Path, start: Start) -> None:
    """Or the tests below could not fail."""
    status, output = start(corpus, **HUBERT, dataset__labels=labels)

    assert status == 0, output


def test_hubert_without_labels_is_refused(corpus: Path, start: Start, tmp_path: Path) -> None:
    assert_refused(
        start(corpus, **HUBERT),
        tmp_path / "out",
        "`dataset.labels` is not set",
        "`eqssl labels CORPUS DIR`",
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"dataset__labels": "LABELS"}, ["`dataset.labels`", "'wav2vec2' takes no labels"]),
        ({"loss__unmasked_weight": 0.5}, ["`loss.unmasked_weight` is 0.5", "'wav2vec2'"]),
        (
            {**HUBERT, "dataset__labels": "LABELS", "model__config_overrides__num_codes": "[9]"},
            ["`model.config_overrides.num_codes` is [9]", "have [8]"],
        ),
        (
            {
                **HUBERT,
                "dataset__labels": "LABELS",
                "dataset__sample_rate": 8000,
                "dataset__resample": "true",
            },
            ["16000 Hz", "8000 Hz", "`dataset.sample_rate`"],
        ),
        ({**HUBERT, "dataset__labels": "[LABELS, LABELS]"}, ["is listed twice"]),
        ({**HUBERT, "dataset__labels": "[]"}, ["`dataset.labels` names no directory"]),
        ({**HUBERT, "dataset__labels": "/no/labels"}, ["/no/labels: holds no labels"]),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_settings_that_do_not_go_together_are_refused(
    corpus: Path,
    labels: Path,
    start: Start,
    tmp_path: Path,
    overrides: dict[str, object],
    words: list[str],
) -> None:
    overrides = {k: str(v).replace("LABELS", str(labels)) for k, v in overrides.items()}

    assert_refused(start(corpus, **overrides), tmp_path / "out", *words)


def alter_label(labels: Path) -> None:
    file = labels / "de" / "train.km"
    first, rest = file.read_text().split(" ", 1)
    file.write_text(f"{(int(first) + 1) % 8} {rest}")


def cut_off(labels: Path) -> None:
    file = labels / "de" / "valid.km"
    file.write_bytes(file.read_bytes()[:-10])


def lose_split(labels: Path) -> None:
    (labels / "de" / "valid.km").unlink()


def lose_stamp(labels: Path) -> None:
    (labels / "labels.json").unlink()


def change_rate(labels: Path) -> None:
    """As if they were of features with a hop of 12.5 ms."""
    file = labels / "labels.json"
    stamp = json.loads(file.read_text())
    stamp["settings"]["features"]["hop"], stamp["frame_rate"] = 200, 80.0
    file.write_text(json.dumps(stamp))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (alter_label, ["de/train.km", "altered"]),
        (cut_off, ["de/valid.km", "cut off"]),
        (lose_split, ["de/valid.km"]),
        (lose_stamp, ["holds no labels", "labels.json"]),
        (change_rate, ["80 labels a second", "50 frames a second"]),
    ],
)
def test_damaged_labels_are_refused(
    corpus: Path,
    labels: Path,
    start: Start,
    tmp_path: Path,
    damage: Callable[[Path], None],
    words: list[str],
) -> None:
    damage(labels)

    result = start(corpus, **HUBERT, dataset__labels=labels)

    assert_refused(result, tmp_path / "out", str(labels), *words)


def test_labels_of_another_corpus_are_refused(
    corpus: Path, labels: Path, start: Start, tmp_path: Path, make_corpus: Callable[..., Path]
) -> None:
    other = make_corpus(tmp_path / "other", num_train=9, num_valid=2)

    result = start(other, **HUBERT, dataset__labels=labels)

    assert_refused(result, tmp_path / "out", str(labels), "`train`", "`en`", "another corpus")


def test_labels_of_some_sources_only_are_refused(
    corpus: Path, start: Start, tmp_path: Path
) -> None:
    labels = make_labels(corpus, tmp_path / "labels", "--source", "en")

    result = start(corpus, **HUBERT, dataset__labels=labels)

    assert_refused(result, tmp_path / "out", str(labels), "no labels", "`de`")


def test_split_of_another_codebook_is_refused(corpus: Path, start: Start, tmp_path: Path) -> None:
    """As if somebody had labelled the validation split by itself, and put both into one directory."""
    ours, theirs = (
        make_labels(corpus, tmp_path / name, "--seed", seed)
        for name, seed in (("ours", "1"), ("theirs", "2"))
    )

    stamps = [json.loads((d / "labels.json").read_text()) for d in (ours, theirs)]

    for source in ("en", "de"):
        shutil.copy(theirs / source / "valid.km", ours / source / "valid.km")
        stamps[0]["sources"][source]["valid"] = stamps[1]["sources"][source]["valid"]

    (ours / "labels.json").write_text(json.dumps(stamps[0]))

    result = start(corpus, **HUBERT, dataset__labels=ours)

    assert_refused(result, tmp_path / "out", str(ours), "`valid`", "another codebook")


def test_labels_that_changed_before_a_resume_are_refused(
    corpus: Path, labels: Path, start: Start, tmp_path: Path
) -> None:
    assert start(corpus, **HUBERT, dataset__labels=labels)[0] == 0

    files = {f: f.read_bytes() for f in (tmp_path / "out" / "checkpoints").rglob("*.pt")}
    assert files

    shutil.rmtree(labels)
    make_labels(corpus, labels, "--seed", "2")

    status, output = start(corpus, **HUBERT, dataset__labels=labels, regime__num_steps=4)

    assert status == 2, output
    assert "Traceback" not in output
    assert "are not those that the checkpoint was trained with" in output
    assert {f: f.read_bytes() for f in (tmp_path / "out" / "checkpoints").rglob("*.pt")} == files

    # The same labels, wherever they lie.
    shutil.rmtree(labels)
    make_labels(corpus, labels)

    status, output = start(corpus, **HUBERT, dataset__labels=labels, regime__num_steps=4)

    assert status == 0, output
    assert "Resuming from step 2" in output
