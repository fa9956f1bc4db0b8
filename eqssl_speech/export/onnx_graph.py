"""ONNX graphs, node by node, and the one file that holds the weights of several.

The nodes are written here instead of traced by torch's exporters. So the same model gives the same bytes, nothing gets
in but what is put in, and no size becomes fixed because a trace has seen it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, BinaryIO, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from eqssl_speech.error import InputError

Values: TypeAlias = Mapping[str, tuple[type[np.generic], Sequence[str | int]]]
"""Inputs or outputs of a graph: the type of the numbers, and the sizes, of which those that have a name are free."""

OPSET: Final = 17
"""The first that has layer norm; onnxruntime takes it from 1.12 on."""

_IR_VERSION: Final = 8
"""That of the opset's time; onnx would take its own newest."""

_ALIGNMENT: Final = 4096
"""Tensors begin at multiples of so many bytes, which lets a file be mapped into memory (``docs/ExternalData.md`` of
ONNX)."""


def import_package(name: str) -> ModuleType:
    """Import a package that only the export to ONNX needs.

    :raises InputError: If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as ex:
        if ex.name != name:
            raise

        raise InputError(
            f"ONNX export needs {name}, which is not installed; "
            "install it with `pip install eqssl_speech[export]`."
        ) from None


@final
class WeightFile:
    """The tensors of a model, one after the other; graphs beside the file say where each is."""

    def __init__(self, stream: BinaryIO, location: str) -> None:
        """
        :param stream: A file, open for writing, empty.
        :param location: Its name, for graphs in the same directory.
        """
        self._stream = stream
        self._location = location
        self._protos: dict[str, Any] = {}

    def add(self, name: str, tensor: Tensor) -> Any:
        """Write a tensor, in float32.

        :param name: Of one tensor in all graphs; if it is in the file already, nothing is written.
        :returns: What refers to it in a graph, a ``TensorProto``.
        """
        if name not in self._protos:
            self._protos[name] = self._write(name, tensor)

        return self._protos[name]

    def _write(self, name: str, tensor: Tensor) -> Any:
        onnx = import_package("onnx")

        content = np.ascontiguousarray(tensor.detach().cpu().float().numpy(), dtype="<f4")

        self._stream.write(bytes(-self._stream.tell() % _ALIGNMENT))
        offset = self._stream.tell()
        self._stream.write(content.data)

        proto = onnx.TensorProto(
            name=name,
            data_type=onnx.TensorProto.FLOAT,
            dims=tensor.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )

        for key, value in (
            ("location", self._location),
            ("offset", offset),
            ("length", content.nbytes),
        ):
            proto.external_data.add(key=key, value=str(value))

        return proto


@final
class Graph:
    """A graph that grows. Values are known by their names."""

    FLOAT: Final = 1
    """The operators' number for float32."""

    DOUBLE: Final = 11
    """The operators' number for float64."""

    def __init__(self, weights: WeightFile) -> None:
        """:param weights: Where the weights go; shared with other graphs."""
        self._onnx = import_package("onnx")
        self._weights = weights
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node.

        :param kind: An operator of ONNX that has one output.
        :param inputs: The values that it takes; an empty name stands for one that is left out.
        :param output: The name of its output; by default the kind with a number.
        :param attributes: The operator's.
        :returns: The name of its output.
        """
        output = output or f"{kind}_{len(self._nodes)}"

        self._nodes.append(
            self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )

        return output

    def weight(self, name: str, tensor: Tensor) -> str:
        """Add a tensor of the model, which is written into the file of weights.

        :returns: Its name.
        """
        self._initializers[name] = self._weights.add(name, tensor)

        return name

    def ints(self, *values: int) -> str:
        """Add integers. *Shape:* ``(len(values),)``."""
        return self._constant(np.asarray(values, dtype=np.int64), "_".join(map(str, values)))

    def integer(self, value: int) -> str:
        """Add an integer. *Shape:* ``()``."""
        return self._constant(np.asarray(value, dtype=np.int64), f"scalar_{value}")

    def number(self, value: float) -> str:
        """Add a number, in float32. *Shape:* ``()``."""
        return self._constant(np.asarray(value, dtype=np.float32), repr(value))

    def bools(self, name: str, values: Sequence[bool]) -> str:
        """Add truth values under a name. *Shape:* ``(len(values),)``."""
        return self._constant(np.asarray(values, dtype=np.bool_), name)

    def finish(self, inputs: Values, outputs: Values, metadata: Mapping[str, str]) -> bytes:
        """Return the content of a file of the graph.

        :param inputs: What it takes.
        :param outputs: What it returns.
        :param metadata: What users of the file may read in it.
        """
        helper = self._onnx.helper

        graph = helper.make_graph(
            self._nodes,
            "eqssl_speech",
            self._describe(inputs),
            self._describe(outputs),
            initializer=list(self._initializers.values()),
        )

        model = helper.make_model(
            graph,
            producer_name="eqssl_speech",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )

        helper.set_model_props(model, dict(sorted(metadata.items())))

        content: bytes = model.SerializeToString(deterministic=True)

        return content

    def _describe(self, values: Values) -> list[Any]:
        helper = self._onnx.helper

        return [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape
            )
            for name, (kind, shape) in values.items()
        ]

    def _constant(self, values: npt.NDArray[Any], label: str) -> str:
        name = f"{values.dtype.name}_{label}"

        if name not in self._initializers:
            self._initializers[name] = self._onnx.numpy_helper.from_array(values, name)

        return name
