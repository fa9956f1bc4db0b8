"""The smallest parts of an encoder as nodes of an ONNX graph."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast, final

import torch
from fairseq2.models.transformer import StandardFeedForwardNetwork
from fairseq2.nn import ColumnShardedLinear, Linear, RowShardedLinear, StandardLayerNorm
from torch import Tensor
from torch.nn import GELU, BatchNorm1d, Conv1d, Module, ReLU, SiLU

from eqssl_speech.error import InputError
from eqssl_speech.export.onnx_graph import Graph

ModuleT = TypeVar("ModuleT", bound=Module)

_LINEAR: Final = (Linear, ColumnShardedLinear, RowShardedLinear, torch.nn.Linear)

# The name `torch.nn.utils.weight_norm` is the function; the class lives in the module of that name.
_WeightNorm: Final[Any] = sys.modules["torch.nn.utils.weight_norm"].WeightNorm


@final
@dataclass(frozen=True)
class Masks:
    """Which frames of a padded batch are an utterance's own. Names of values."""

    own: str
    """Whether a frame is. *Shape:* ``(N, T, 1)``."""

    bias: str
    """What is added to scores of attention: zero, or what leaves no weight. *Shape:* ``(N, 1, 1, T)``."""


@final
class Layers:
    """Adds what modules compute in evaluation mode to a graph. Values are known by their names.

    Only parameters and settings of a module are read, and it stays as it is.
    """

    def __init__(self, graph: Graph, names: Mapping[Module, str]) -> None:
        """
        :param graph: The graph.
        :param names: The name of each module of the model.
        """
        self.graph: Final = graph
        self._names = names

    def expect(self, module: Module | None, *kinds: type[ModuleT]) -> ModuleT:
        """Return a module that is of exactly one of these classes; what derives from them may compute something else.

        :raises InputError: If it is of another one.
        """
        if type(module) not in kinds:
            raise self.refuse(module, f"is of the kind `{type(module).__name__}`")

        return cast(ModuleT, module)

    def refuse(self, module: Module | None, reason: str) -> InputError:
        """Return the error for a module that cannot be exported.

        :param reason: What is the matter with it, as a verb phrase.
        """
        name = "" if module is None else f" `{self._names.get(module)}`"

        return InputError(
            f"A part{name} of the model {reason}, which cannot be exported to ONNX; "
            "choose another format with `--to`."
        )

    def weight(self, module: Module, suffix: str, tensor: Tensor) -> str:
        """Add a tensor, named after a module.

        :returns: The name of its value.
        """
        return self.graph.weight(f"{self._names[module]}.{suffix}", tensor)

    def linear(self, module: Module, seqs: str) -> str:
        """Add a linear layer. *Shape:* ``(N, T, C)`` to ``(N, T, D)``."""
        linear: Any = self.expect(module, *_LINEAR)

        seqs = self.multiply(linear, "weight", linear.weight, seqs)

        if linear.bias is None:
            return seqs

        return self.graph.op("Add", seqs, self.weight(linear, "bias", linear.bias))

    def multiply(self, module: Module, name: str, weight: Tensor, seqs: str) -> str:
        """Multiply sequences by a matrix of a module. *Shape:* ``(N, T, C)`` to ``(N, T, D)``.

        :param name: The matrix' within the module.
        :param weight: *Shape:* ``(D, C)``.
        """
        return self.graph.op("MatMul", seqs, self.weight(module, f"{name}.T", weight.t()))

    def layer_norm(self, module: Module, seqs: str) -> str:
        """Add a layer norm. *Shape:* ``(N, T, C)``."""
        norm = self.expect(module, StandardLayerNorm)

        if len(norm.normalized_shape) != 1:
            raise self.refuse(norm, "normalises over several dimensions")

        # The operator must have a weight.
        weight = torch.ones(norm.normalized_shape) if norm.weight is None else norm.weight
        inputs = [seqs, self.weight(norm, "weight", weight)]

        if norm.bias is not None:
            inputs.append(self.weight(norm, "bias", norm.bias))

        return self.graph.op("LayerNormalization", *inputs, axis=-1, epsilon=norm.eps)

    def batch_norm(self, module: BatchNorm1d, seqs: str) -> str:
        """Add a batch norm with the statistics of its training. *Shape:* ``(N, C, S)``."""
        if module.running_mean is None or module.running_var is None or not module.affine:
            raise self.refuse(module, "has no statistics of its training")

        tensors = {
            "weight": module.weight,
            "bias": module.bias,
            "running_mean": module.running_mean,
            "running_var": module.running_var,
        }

        inputs = [self.weight(module, name, tensor) for name, tensor in tensors.items()]

        return self.graph.op("BatchNormalization", seqs, *inputs, epsilon=module.eps)

    def convolution(self, module: Conv1d, seqs: str, *, bias: bool = True) -> str:
        """Add a convolution with the padding that it says. *Shape:* ``(N, C, S)`` to ``(N, D, T)``.

        :param bias: Whether its bias is added, if it has one.
        """
        padding = module.padding

        if padding == "same":
            surplus = module.kernel_size[0] - 1

            begin, end = surplus // 2, surplus - surplus // 2
        else:
            assert not isinstance(padding, str)
            begin = end = padding[0]

        return self.padded_convolution(module, seqs, begin, end, bias=bias)

    def padded_convolution(
        self, module: Conv1d, seqs: str, begin: int, end: int, *, bias: bool = True
    ) -> str:
        """Add a convolution. *Shape:* ``(N, C, S)`` to ``(N, D, T)``.

        :param begin: The number of zeros in front of each sequence.
        :param end: That behind it.
        :param bias: Whether its bias is added, if it has one.
        """
        if module.padding_mode != "zeros" or module.dilation != (1,):
            raise self.refuse(module, "is dilated, or padded with something else than zeros")

        inputs = [seqs, self.weight(module, "weight", find_weight(module))]

        if bias and module.bias is not None:
            inputs.append(self.weight(module, "bias", module.bias))

        return self.graph.op(
            "Conv",
            *inputs,
            kernel_shape=module.kernel_size,
            strides=module.stride,
            pads=[begin, end],
            group=module.groups,
        )

    def activation(self, module: Module, x: str) -> str:
        """Add GELU, SiLU or ReLU. *Shape:* any."""
        activation = self.expect(module, GELU, SiLU, ReLU)
        graph = self.graph

        if isinstance(activation, ReLU):
            return graph.op("Relu", x)

        if isinstance(activation, SiLU):
            return graph.op("Mul", x, graph.op("Sigmoid", x))

        assert isinstance(activation, GELU)

        if activation.approximate != "none":
            raise self.refuse(activation, "approximates GELU")

        # In the order in which onnxruntime looks for the five, to compute them as one.
        erf = graph.op("Erf", graph.op("Div", x, graph.number(math.sqrt(2.0))))
        doubled = graph.op("Mul", x, graph.op("Add", erf, graph.number(1.0)))

        return graph.op("Mul", doubled, graph.number(0.5))

    def feed_forward(self, module: Module, seqs: str) -> str:
        """Add a feed-forward network. *Shape:* ``(N, T, M)``."""
        ffn = self.expect(module, StandardFeedForwardNetwork)

        seqs = self.linear(ffn.inner_proj, seqs)
        seqs = self.activation(ffn.inner_activation, seqs)

        return self.linear(ffn.output_proj, seqs)

    def transpose(self, seqs: str) -> str:
        """Exchange time and channels. *Shape:* ``(N, T, C)`` to ``(N, C, T)``, or back."""
        return self.graph.op("Transpose", seqs, perm=[0, 2, 1])

    def keep_own(self, seqs: str, masks: Masks | None) -> str:
        """Set padding to zero. *Shape:* ``(N, T, C)``."""
        if masks is None:
            return seqs

        return self.graph.op("Where", masks.own, seqs, self.graph.number(0.0))


def find_weight(module: Conv1d) -> Tensor:
    """Return the weight of a convolution, from its norms and directions if it has them."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _WeightNorm):
            weight: Tensor = hook.compute_weight(module)

            return weight

    return module.weight
