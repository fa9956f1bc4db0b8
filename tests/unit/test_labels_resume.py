"""``eqssl labels`` goes on where it was stopped, to the same files."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from label_runs import make_labels, read_tree, require_refusal

from eqssl_speech.labels import files

MakeCorpus = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: MakeCorpus) -> Path:
    return make_corpus(tmp_path / "corpus", num_train=4, num_valid=2)


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Return a function that runs the command and wants it to refuse in a sentence."""
    return partial(require_refusal, capsys)


@pytest.mark.parametrize("per_source", [False, True])
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_files(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, per_source: bool
) -> None:
    args = ["--per-source"] if per_source else []
    assert make_labels(corpus, tmp_path / "whole", *args) == 0
    whole = read_tree(tmp_path / "whole")

    out = tmp_path / "stopped"
    written: set[str] = set()
    replace = os.replace

    def replace_and_stop(source: object, target: object) -> None:
        replace(source, target)  # type: ignore[arg-type]

        name = str(target)
        if name.startswith(str(out)) and name not in written:
            written.add(name)
            raise KeyboardInterrupt

    # After each file that is written, whichever it is.
    monkeypatch.setattr(os, "replace", replace_and_stop)
    for _ in range(100):
        status = make_labels(corpus, out, *args)
        if status == 0:
            break

        assert status == 130

    assert len(written) > 15
    assert read_tree(out) == whole


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_files(
    tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    corpus = make_corpus(tmp_path / "corpus", num_train=40, num_valid=10)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "eqssl_speech", "labels", str(corpus), str(out)]
    command += ["--clusters", "20", "--jobs", "1"]

    num_kills = 0
    rng = random.Random(1)

    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # Later each time, so that it ends.
            process.wait(rng.uniform(3.0, 4.0) + 0.2 * num_kills)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            num_kills += 1

    assert process.returncode == 0
    assert num_kills > 2
    assert make_labels(corpus, tmp_path / "whole", "--clusters", 20) == 0
    assert read_tree(out) == read_tree(tmp_path / "whole")


def test_a_full_disk_is_named_and_what_is_done_is_kept(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[..., None]
) -> None:
    out = tmp_path / "labels"
    num_left = 6

    def replace_file(file: Path, content: bytes) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        write(file, content)

    write = files.replace_file
    monkeypatch.setattr(files, "replace_file", replace_file)
    refuse(
        r"cannot be written \(No space left on device\); free some space .*, and run the same com",
        corpus,
        out,
    )
    monkeypatch.undo()

    kept = {f: (out / f).stat().st_mtime_ns for f in read_tree(out) if f.endswith((".npy", ".st"))}
    assert make_labels(corpus, out) == 0
    assert make_labels(corpus, tmp_path / "whole") == 0
    assert read_tree(out) == read_tree(tmp_path / "whole")
    assert kept or num_left < 0


def test_labels_of_another_codebook_in_unfinished_work_are_not_used(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels"
    replace = os.replace

    def stop_at_merging(source: object, target: object) -> None:
        if str(target).endswith(".km"):
            raise KeyboardInterrupt
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", stop_at_merging)
    assert make_labels(corpus, out) == 130
    monkeypatch.undo()

    blocks = sorted((out / ".work" / "labels").rglob("*.json"))
    assert len(blocks) == 4
    for block in blocks[:2]:
        content = json.loads(block.read_text())
        content.update(codebook="f" * 64, lines=["1"] * len(content["lines"]))
        block.write_text(json.dumps(content))
    blocks[2].write_text("{")

    assert make_labels(corpus, out) == 0
    assert make_labels(corpus, tmp_path / "whole") == 0
    assert read_tree(out) == read_tree(tmp_path / "whole")
