"""Runs of `eqssl labels` on small corpora, and the models and files that they need."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
from torch import Tensor
from written_runs import write_run

from eqssl_speech import cli
from eqssl_speech.models.wav2vec2 import prepare_model
from eqssl_speech.models.wav2vec2.config import micro_config


def make_run(
    run: Path,
    config: Wav2Vec2Config | None = None,
    *,
    seed: int = 1,
    change: Callable[[dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Write a run of pre-training that has made no step; return its tensors."""
    config = config or micro_config()

    torch.manual_seed(seed)
    tensors = prepare_model(create_wav2vec2_model(config)).state_dict()
    if change is not None:
        change(tensors)

    write_run(run, tensors, config, step_nr=5)

    return tensors


def with_encoder(**overrides: Any) -> Wav2Vec2Config:
    """The smallest architecture with another encoder."""
    config = micro_config()

    return dataclasses.replace(
        config, encoder_config=dataclasses.replace(config.encoder_config, **overrides)
    )


def make_labels(corpus: Path, out: Path, *args: object) -> int:
    """Run the command with few clusters; return its status."""
    words = list(map(str, args))
    if not {"--codebook", "--clusters"} & set(words):
        words += ["--clusters", "8"]

    return cli.main(["labels", str(corpus), str(out), "--jobs", "2", *words])


def read_tree(directory: Path) -> dict[str, bytes]:
    """All files of a directory by their path in it."""
    return {
        str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()
    }


def read_km(file: Path) -> list[list[int]]:
    """The labels of each line."""
    return [[int(word) for word in line.split()] for line in file.read_text().splitlines()]


def edit_stamp(out: Path, change: Callable[[Any], None]) -> None:
    """Change labels.json behind the program's back."""
    content = json.loads((out / "labels.json").read_text())
    change(content)
    (out / "labels.json").write_text(json.dumps(content))


def forge(out: Path, source: str, split: str, text: str) -> None:
    """Write other labels, and the digest that fits them."""
    file = out / source / f"{split}.km"
    file.write_text(text)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    edit_stamp(out, lambda stamp: stamp["sources"][source][split].update(labels=digest))


def require_refusal(
    capsys: pytest.CaptureFixture[str], message: str, corpus: Path, out: Path, *args: object
) -> None:
    """Run the command and want it to refuse in a sentence."""
    assert make_labels(corpus, out, *args) == 2

    err = capsys.readouterr().err.strip().splitlines()[-1]

    assert re.search(message, err), err
    assert err.startswith("eqssl: ")
    assert err.endswith(".")
