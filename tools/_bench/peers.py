"""First-order MAML of the same job in other libraries; each is imported only when it is asked for.

Every one is used the cheapest way that it offers for the first order. None of them is a dependency. Where a library
trips over how fairseq2 writes a module, and a few lines from outside help, it gets them.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module

from .job import Job
from .variants import Variant


class Learn2Learn(Variant):
    """``learn2learn.algorithms.MAML(first_order=True)``: clone, adapt K times, backward."""

    def __init__(self, job: Job) -> None:
        """:raises ImportError: If the library does not load."""
        super().__init__(job)

        _unregister_missing_modules(job.model)

        self._maml = _import_learn2learn_maml().MAML(
            job.model, lr=job.spec.inner_lr, first_order=True, allow_unused=True
        )

    def accumulate(self) -> None:
        """Adapt a clone; its gradient flows back to the model's own parameters."""
        job, learner = self.job, self._maml.clone()

        for k in range(job.num_inner_steps):
            learner.adapt(job.loss(k, learner))

        job.loss(job.num_inner_steps, learner).backward()


class TorchOpt(Variant):
    """``torchopt.sgd`` as a functional optimizer; ``torchopt.MetaSGD`` always builds the second-order graph."""

    def __init__(self, job: Job) -> None:
        """:raises ImportError: If the library does not load."""
        super().__init__(job)

        self._torchopt = importlib.import_module("torchopt")
        self._names = [name for name, _ in job.model.named_parameters()]

    def accumulate(self) -> None:
        """Update functional parameters, each a sum of theta and constants."""
        job, lib = self.job, self._torchopt
        inner: Any = lib.sgd(job.spec.inner_lr)
        params = tuple(job.params)
        state = inner.init(params)

        for k in range(job.num_inner_steps):
            grads = torch.autograd.grad(self._loss(k, params), params, allow_unused=True)
            updates, state = inner.update(grads, state, params=params, inplace=False)
            params = lib.apply_updates(params, updates, inplace=False)

        self._loss(job.num_inner_steps, params).backward()

    def _loss(self, k: int, params: tuple[Tensor, ...]) -> Tensor:
        model, seqs, layout = self.job.begin(k, self.job.model)
        named = dict(zip(self._names, params))

        return self.job.reduce(
            lambda *args: functional_call(model, named, args),  # type: ignore[arg-type]
            seqs,
            layout,
        )


class Higher(Variant):
    """``higher.innerloop_ctx(track_higher_grads=False)``; the gradient at phi^K is handed to the model."""

    def __init__(self, job: Job) -> None:
        """:raises ImportError: If the library does not load."""
        super().__init__(job)

        self._higher = importlib.import_module("higher")

        _unregister_missing_modules(job.model)
        _let_higher_patch_abstract_modules()

    def accumulate(self) -> None:
        """Update the fast weights of a patched model and copy the last gradient."""
        job = self.job
        inner = torch.optim.SGD(job.params, lr=job.spec.inner_lr)

        with self._higher.innerloop_ctx(
            job.model, inner, copy_initial_weights=False, track_higher_grads=False
        ) as (patched, optimizer):
            # higher drops hooks; weight norm is one.
            for module, copy in zip(job.model.modules(), patched.modules()):
                copy._forward_pre_hooks = module._forward_pre_hooks

            for k in range(job.num_inner_steps):
                optimizer.step(job.loss(k, patched))

            loss = job.loss(job.num_inner_steps, patched)
            grads = torch.autograd.grad(loss, list(patched.parameters()), allow_unused=True)

        for param, grad in zip(job.params, grads):
            param.grad = grad


PEERS: dict[str, type[Variant]] = {
    "learn2learn": Learn2Learn,
    "torchopt": TorchOpt,
    "higher": Higher,
}


def _unregister_missing_modules(model: Module) -> None:
    """Turn submodules registered as ``None`` into attributes; other libraries recurse into them."""
    for module in model.modules():
        for name in [n for n, child in module._modules.items() if child is None]:
            del module._modules[name]

            module.__dict__[name] = None


def _let_higher_patch_abstract_modules() -> None:
    """Swap the bases ``(ABC, Module)`` of higher's mix-in, which clash with a ``class X(Module, ABC)``."""
    patch: Any = importlib.import_module("higher.patch")
    mixin = patch._MonkeyPatchBase

    if mixin.__mro__.index(abc.ABC) < mixin.__mro__.index(Module):
        body = {k: v for k, v in vars(mixin).items() if k not in ("__dict__", "__weakref__")}

        patch._MonkeyPatchBase = abc.ABCMeta(mixin.__name__, (Module, abc.ABC), body)


def _import_learn2learn_maml() -> ModuleType:
    """Import learn2learn's MAML, and no more of it where the whole does not load.

    Its data loaders are C extensions that do not compile on Python 3.11 and later; MAML needs none of them. So the
    unpacked source distribution on PYTHONPATH will do.
    """
    try:
        return importlib.import_module("learn2learn.algorithms.maml")
    except ImportError as ex:
        cause = ex

    for name in [n for n in sys.modules if n.split(".")[0] == "learn2learn"]:
        del sys.modules[name]

    spec = importlib.util.find_spec("learn2learn")
    if spec is None or not spec.submodule_search_locations:
        raise cause

    root = next(iter(spec.submodule_search_locations))

    for name, folder in (
        ("learn2learn", root),
        ("learn2learn.algorithms", f"{root}/algorithms"),
    ):
        package = ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package

    return importlib.import_module("learn2learn.algorithms.maml")
