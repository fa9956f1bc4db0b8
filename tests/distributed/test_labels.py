"""Labels made by two processes are those of one, to the last byte, also where work was begun by the other number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from label_runs import make_run, read_tree

LABELS = ["-m", "eqssl_speech", "labels"]


def run(launcher: list[str], *args: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, *LABELS, *map(str, args), "--clusters", "8"]

    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.parametrize("features", ["mfcc", pytest.param("layer", marks=pytest.mark.slow)])
def test_two_processes_give_the_bytes_of_one(
    tmp_path: Path, torchrun: list[str], make_corpus: Callable[..., Path], features: str
) -> None:
    corpus = make_corpus(tmp_path / "corpus", num_train=7, num_valid=3)
    (corpus / "de" / "audio" / "train-001.flac").write_bytes(b"nothing")

    args: list[object] = []
    if features == "layer":
        make_run(tmp_path / "run")
        args = ["--checkpoint", tmp_path / "run", "--layer", 2, "--device", "cpu"]

    one = run([sys.executable], corpus, tmp_path / "one", *args)
    two = run(torchrun, corpus, tmp_path / "two", *args)

    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    # One process speaks for all.
    assert two.stdout.count("Labels are complete in") == 1
    assert two.stdout.endswith(one.stdout.replace(str(tmp_path / "one"), str(tmp_path / "two")))
    assert two.stderr.count("1 of 20 utterances left out: 1 unreadable; mend them, and") == 1

    files = read_tree(tmp_path / "one")
    assert {"labels.json", "en/train.km", "de/valid.km", "quality.png"} <= set(files)
    assert read_tree(tmp_path / "two") == files

    if features == "layer":
        refused = run(torchrun, corpus, tmp_path / "two", *args, "--seed", 9)

        assert refused.returncode != 0
        assert "`--seed` is 1 there but 9 now" in refused.stderr
        assert read_tree(tmp_path / "two") == files
