"""What the ranks of a run agree on and find out about one another."""

from __future__ import annotations

from signal import Signals
from typing import Any

import pytest
import torch
from fairseq2.gang import FakeGang, GangError
from torch.distributed import DistBackendError, TCPStore

from eqssl_speech.tasks import ranks
from eqssl_speech.tasks.ranks import LostContactError, explain_lost_contact, is_lost_contact
from eqssl_speech.tasks.signals import StopRequest
from eqssl_speech.tasks.stopping import StopVote

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error [::1]:4: Reset"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """That of a run of four ranks, of which this process is rank 2."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)

    for name, value in {
        "RANK": 2,
        "WORLD_SIZE": 4,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": store.port,
        "TORCHELASTIC_RESTART_COUNT": 0,
    }.items():
        monkeypatch.setenv(name, str(value))

    monkeypatch.setattr(ranks, "_ANSWER_S", 0.3)

    return store


def lose_contact() -> LostContactError:
    error = LostContactError(7)
    error.__cause__ = RuntimeError(GLOO)

    return error


def test_communication_is_told_from_other_failures() -> None:
    failure = ValueError("x")
    failure.__cause__ = GangError("`barrier()` collective operation failed.")

    assert is_lost_contact(failure)
    assert is_lost_contact(RuntimeError(GLOO))
    assert is_lost_contact(DistBackendError("NCCL error"))
    assert not is_lost_contact(RuntimeError("shapes do not match"))
    assert not is_lost_contact(OSError("no space left"))


def test_rank_that_failed_is_named_with_its_reason(store: TCPStore) -> None:
    store.set("eqssl_speech/0/failed/1", "OSError: disk 7 is on fire.")

    assert explain_lost_contact(lose_contact()) == (
        "Lost contact with another process at step 7 (Read error [::1]:4: Reset): rank 1 ended with OSError: disk 7 is "
        "on fire (see logs/rank_1.log). Once the reason is gone, the same command goes on from the last checkpoint."
    )


def test_ranks_that_do_not_answer_are_named_by_the_first_that_is_there(
    store: TCPStore, capfd: pytest.CaptureFixture[str]
) -> None:
    store.set("eqssl_speech/0/there/3", "")

    message = explain_lost_contact(lose_contact())

    assert "ranks 0, 1 do not answer, most likely killed" in message
    assert f"eqssl: rank 2: {message}" in capfd.readouterr().err


def test_rank_other_than_the_first_leaves_the_terminal_to_the_first(
    store: TCPStore, capfd: pytest.CaptureFixture[str]
) -> None:
    for rank in (0, 3):
        store.set(f"eqssl_speech/0/there/{rank}", "")

    assert "rank 1 does not answer" in explain_lost_contact(lose_contact())
    assert "eqssl" not in capfd.readouterr().err


def test_what_was_said_before_torchrun_started_the_ranks_anew_counts_no_more(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("eqssl_speech/0/failed/1", "OSError: disk 7 is on fire")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")

    assert "on fire" not in explain_lost_contact(lose_contact())


def test_store_that_has_gone_points_to_the_rank_that_held_it(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")

    assert "most likely rank 0 has ended" in explain_lost_contact(lose_contact())


class _Gang:
    """Rank 1 of three, whose others have voted."""

    size, rank, device = 3, 1, torch.device("cpu")

    def __init__(self, others: list[Signals | None]) -> None:
        self._others = others

    def all_reduce(self, tensor: torch.Tensor, op: Any) -> None:
        for rank, received in zip((0, 2), self._others):
            if received is not None:
                tensor.fill_(max(int(tensor), (3 - rank) * 100 + received))


@pytest.mark.parametrize(
    ("own", "others", "reason"),
    [
        (None, [None, None], None),
        (Signals.SIGUSR1, [None, None], "SIGUSR1 to rank 1"),
        (None, [None, Signals.SIGTERM], "SIGTERM to rank 2"),
        (Signals.SIGTERM, [Signals.SIGUSR1, Signals.SIGTERM], "SIGUSR1 to rank 0"),
    ],
)
def test_vote_names_the_lowest_rank_that_was_asked(
    own: Signals | None, others: list[Signals | None], reason: str | None
) -> None:
    request = StopRequest()
    request.received = own
    vote = StopVote(request)

    assert vote(_Gang(others)) is (reason is not None)  # type: ignore[arg-type]
    assert vote.reason == reason


def test_one_process_asks_nobody() -> None:
    request = StopRequest()
    vote = StopVote(request)
    gang = FakeGang(torch.device("cpu"))

    assert not vote(gang)

    request.received = Signals.SIGTERM

    assert vote(gang)
    assert vote.reason == "SIGTERM"
