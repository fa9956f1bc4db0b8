"""The device that a model is put on, and numbers that options take."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest
import torch

from eqssl_speech.cli.recognition import choose_device, positive_float


@pytest.mark.parametrize(
    ("wanted", "num_gpus", "local_rank", "device"),
    [
        (None, 0, None, "cpu"),
        (None, 2, None, "cuda:0"),
        (None, 2, "1", "cuda:1"),
        (None, 2, "3", "cuda:1"),
        ("cuda", 2, "1", "cuda:1"),
        ("cuda:0", 2, "1", "cuda:0"),
        ("cpu", 2, "1", "cpu"),
        ("cuda", 0, None, "cuda"),
    ],
)
def test_processes_have_a_device_each(
    wanted: str | None,
    num_gpus: int,
    local_rank: str | None,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)

    assert choose_device(wanted) == device


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "many", ""])
def test_number_that_is_not_positive_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="must be a number greater than 0"):
        positive_float(text)


def test_positive_number_is_taken() -> None:
    assert positive_float("2.5") == 2.5
