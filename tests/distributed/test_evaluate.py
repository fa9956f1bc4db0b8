"""Evaluation on several processes gives the files of one process, to the last byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from spelled_corpus import make_spelled_corpus

WORKER = Path(__file__).with_name("evaluate_worker.py")


def test_two_processes_give_the_numbers_of_one(tmp_path: Path, torchrun: list[str]) -> None:
    make_spelled_corpus(tmp_path / "c")

    # One that neither process can read; the one who gets it tells the other.
    file = tmp_path / "c" / "en-film" / "audio" / "05 ü.flac"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(bytes(data))

    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    files = {}

    for name, launcher in (("one", [sys.executable]), ("two", torchrun)):
        out = tmp_path / name
        args = [str(tmp_path / "c"), "--out", str(out), "--batch-seconds", "8", "--jobs", "1"]
        command = [*launcher, str(WORKER), *args, "--max-segment-s", "3", "--bootstrap", "50"]

        result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)

        assert result.returncode == 0, result.stderr
        assert result.stdout.count("micro average") == 1
        assert "1 of 42 utterances left out" in result.stderr

        files[name] = {f.name: f.read_bytes() for f in out.iterdir()}

    assert set(files["one"]) == {"summary.json", "summary.png", "hypotheses.tsv"}
    assert files["one"] == files["two"]
