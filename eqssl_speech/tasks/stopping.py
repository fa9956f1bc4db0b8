"""How the ranks of a run agree to stop, although a signal may reach only one of them, and each at another moment."""

from __future__ import annotations

from signal import Signals
from typing import final

import torch
from fairseq2.gang import Gang, ReduceOperation
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp, all_reduce, new_group

from eqssl_speech.tasks.signals import StopRequest


@final
class Maximum:
    """Puts the greatest of all ranks' numbers in the place of each, without waiting for a GPU.

    A number that came back from a GPU would have to wait for all that the GPU still has to do.
    """

    def __init__(self, gang: Gang) -> None:
        """
        :param gang: All ranks; each must make the same calls.
        """
        self._gang = gang
        self._group: ProcessGroup | None = None

    def __call__(self, numbers: Tensor) -> None:
        """
        :param numbers: On the CPU; changed in place.
        """
        if self._gang.device.type == "cpu":
            self._gang.all_reduce(numbers, ReduceOperation.MAX)

            return

        if self._group is None:
            self._group = new_group(backend="gloo")

        all_reduce(numbers, ReduceOp.MAX, group=self._group)


@final
class StopVote:
    """Tells all ranks at the same place whether one of them was asked to stop, and how."""

    def __init__(self, request: StopRequest) -> None:
        """
        :param request: That of this process.
        """
        self._request = request
        self._maximum: Maximum | None = None

        self.reason: str | None = None
        """What came, and to which rank of several; ``None`` as long as nothing did."""

    def __call__(self, gang: Gang) -> bool:
        """Ask all ranks.

        :param gang: All ranks; each must call.
        :returns: The same on all of them.
        """
        received = self._request.received

        if gang.size == 1:
            self.reason = None if received is None else received.name

            return received is not None

        vote = torch.tensor(0)

        if received is not None:
            # The greatest is that of the lowest rank.
            vote += (gang.size - gang.rank) * 100 + received

        self._maximum = self._maximum or Maximum(gang)
        self._maximum(vote)

        place, number = divmod(int(vote), 100)

        if number > 0:
            self.reason = f"{Signals(number).name} to rank {gang.size - place}"

        return number > 0
