"""Where the parameters of a replica lie: whole on one process, or in shards on several.

A replica is the processes that hold one copy of the parameters together. It adapts to one data source at a time. Its
inner gradients are the mean over its processes, whose batches are of that source, and never leave it.

Parameters that ``torch.distributed.fsdp.fully_shard`` (FSDP2) has split are DTensors. Arithmetic on many of them at
once is not all there in torch 2.9, so the inner loop works on the part that lies here (:func:`local_part`), which
shares their memory. What is private to torch is used in this file alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import Module
from torch.nn.utils import get_total_norm


def local_part(tensor: Tensor) -> Tensor:
    """Return what lies here of a tensor, without its graph; of one that is not split, all."""
    tensor = tensor.detach()

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Replica:
    """A copy of the parameters that lies whole on one process, alone or as one of several."""

    def gradients(self, loss: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
        """Compute the gradient of a loss; ``.grad`` is neither read nor written.

        :param loss: The scalar mean loss of this process, with its graph.
        :param params: The handles that the optimizer has.
        :returns: The mean over the replica, the part that lies here of each; ``None`` where there is no gradient.
        """
        return list(torch.autograd.grad(loss, list(params), allow_unused=True))

    def norm(self, grads: Sequence[Tensor]) -> Tensor:
        """Return the norm of all gradients together, a scalar.

        :param grads: The parts that lie here.
        """
        return get_total_norm(list(grads))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums over the processes of the replica.

        :param values: As many on each process.
        """
        return values

    def like_params(
        self, params: Sequence[Tensor], parts: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Make of the parts that lie here gradients of whole parameters, as the outer backward pass yields them: with
        several replicas that share their gradients, their mean.

        :param params: The handles that the optimizer has.
        :param parts: One for each; ``None`` stands for zeros.
        """
        return list(parts)

    def forget_gathered(self) -> None:
        """Let the next forward pass see what has been written to the parameters."""


@final
class ShardedReplica(Replica):
    """A copy of the parameters in shards on several processes (FSDP2); with hybrid sharding, one of several copies."""

    def __init__(self, module: Module) -> None:
        """
        :param module: What ``fully_shard`` was applied to, as the root.
        :raises ValueError: If it was not.
        """
        self._modules = [m for m in module.modules() if isinstance(m, FSDPModule)]
        if not isinstance(module, FSDPModule):
            raise ValueError("`module` must be the root of what `fully_shard` was applied to.")

        sharded = next(p for p in module.parameters() if isinstance(p, DTensor))
        mesh = sharded.device_mesh

        # One dimension: shards. Two: replicas, shards.
        self._shard_mesh = mesh if mesh.ndim == 1 else mesh[mesh.mesh_dim_names[1]]  # type: ignore[index]
        self._shard_group = mesh.get_group(mesh.ndim - 1)
        self._replica_group = None if mesh.ndim == 1 else mesh.get_group(0)

    def gradients(self, loss: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
        """See :meth:`Replica.gradients`. ``.grad`` is what it was, also when this raises."""
        # `autograd.grad` finds nothing: the parameters of the forward pass are gathered ones, whose gradients FSDP2
        # takes to the shards from within the backward pass.
        held = [p.grad for p in params]

        for param in params:
            param.grad = None

        try:
            with self._within_replica():
                loss.backward()

            return [None if p.grad is None else local_part(p.grad) for p in params]
        finally:
            for param, grad in zip(params, held, strict=True):
                param.grad = grad

    def norm(self, grads: Sequence[Tensor]) -> Tensor:
        """See :meth:`Replica.norm`."""
        return self.sum(get_total_norm(list(grads)).square()).sqrt()

    def sum(self, values: Tensor) -> Tensor:
        """See :meth:`Replica.sum`."""
        values = values.clone()

        dist.all_reduce(values, group=self._shard_group)

        return values

    def like_params(
        self, params: Sequence[Tensor], parts: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """See :meth:`Replica.like_params`."""
        if self._replica_group is not None:
            parts = self._average(
                [
                    torch.zeros_like(local_part(param)) if part is None else part
                    for param, part in zip(params, parts, strict=True)
                ]
            )

        return [
            None
            if part is None
            else DTensor.from_local(
                part,
                param.device_mesh,
                param.placements,
                run_check=False,
                shape=param.shape,
                stride=param.stride(),
            )
            for param, part in zip(cast(Sequence[DTensor], params), parts, strict=True)
        ]

    def _average(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Take the mean over the replicas, in one message."""
        mean = torch.cat([part.flatten() for part in parts])

        dist.all_reduce(mean, group=self._replica_group)

        mean /= dist.get_world_size(self._replica_group)

        pieces = mean.split([part.numel() for part in parts])

        return [piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)]

    def forget_gathered(self) -> None:
        """See :meth:`Replica.forget_gathered`. A forward pass without a backward pass leaves gathered parameters."""
        for module in self._modules:
            module.reshard()

    @contextmanager
    def _within_replica(self) -> Iterator[None]:
        """Keep a backward pass from averaging with other replicas, as hybrid sharding does."""
        if self._replica_group is None:
            yield

            return

        from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo

        info = FSDPMeshInfo(self._shard_mesh, shard_mesh_dim=0)
        groups: list[Any] = [
            group
            for module in self._modules
            if (group := module._get_fsdp_state()._fsdp_param_group) is not None
        ]
        held = [(group.mesh_info, group.post_forward_mesh_info) for group in groups]

        for group in groups:
            group.mesh_info = info
            group.post_forward_mesh_info = group.post_forward_mesh_info and info

        try:
            yield
        finally:
            for group, (mesh_info, post_forward_mesh_info) in zip(groups, held, strict=True):
                group.mesh_info = mesh_info
                group.post_forward_mesh_info = post_forward_mesh_info
