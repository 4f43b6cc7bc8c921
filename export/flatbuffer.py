"""Writes TFLite models operator by operator: no converter, so nothing in a file that isn't asked for here.

A model has a main graph and others that its IF operators call. Tensors are handles that know their shape and number
format; constants with the same content are stored once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.errors import ExportError

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}
_OPTIONS = {"BATCH_MATMUL": "BatchMatMulOptions", "MEAN": "ReducerOptions", "LOGISTIC": None, "TANH": None}
"""Where the options' class isn't named like the operator; None: there is none."""
_ALIGNMENT = 16
"""Bytes; what LiteRT's kernels and microcontrollers want of constants."""


@dataclass(frozen=True)
class Quantization:
    """An integer q stands for scale * (q - zero_point)."""

    scale: float | tuple[float, ...]
    """One, or one for each index of the first axis."""
    zero_point: int = 0


@dataclass(frozen=True)
class Form:
    """The numbers of a tensor: their type, and what integers stand for."""

    dtype: str
    quantization: Quantization | None = None


FLOAT = Form("float32")


@dataclass(frozen=True)
class Tensor:
    """A value in a graph."""

    index: int
    shape: tuple[int, ...]
    form: Form


class _Buffer(schema.BufferT):
    """Bytes that lie aligned in the file, as the schema asks; the generated class doesn't see to that."""

    def __init__(self, content: bytes):
        super().__init__()
        self.content = content

    def Pack(self, builder):  # noqa: N802 - the generated class calls it so
        builder.StartVector(1, len(self.content), _ALIGNMENT)
        builder.head -= len(self.content)
        builder.Bytes[builder.head : builder.head + len(self.content)] = self.content
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class _Quantization(schema.QuantizationParametersT):
    """Is in the file once, however many tensors have it, and so are its vectors: the zero points are mostly zeros."""

    def __init__(self, scale: np.ndarray, zero_point: np.ndarray, places: dict[bytes, int]):
        super().__init__()
        self.scale, self.zeroPoint = scale, zero_point
        self._places = places
        """Of all that is packed already, by its content."""

    def Pack(self, builder):  # noqa: N802 - the generated class calls it so
        scale, zero_point = (self._shared(builder, vector) for vector in (self.scale, self.zeroPoint))
        place = f"{scale} {zero_point}".encode()
        if place not in self._places:
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, zero_point)
            self._places[place] = schema.QuantizationParametersEnd(builder)
        return self._places[place]

    def _shared(self, builder: flatbuffers.Builder, vector: np.ndarray) -> int:
        key = vector.dtype.char.encode() + vector.tobytes()
        if key not in self._places:
            self._places[key] = builder.CreateNumpyVector(vector)
        return self._places[key]


class ModelWriter:
    """A TFLite model in the making. `main` is its main graph."""

    def __init__(self):
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = "speech_gru"
        self._model.buffers = [schema.BufferT()]  # by the schema's rule the first is empty
        self._model.operatorCodes, self._model.subgraphs = [], []
        self._model.metadata, self._model.signatureDefs = [], []
        self._buffers: dict[bytes, int] = {}
        self._quantizations: dict[Quantization, _Quantization] = {}
        self._places: dict[bytes, int] = {}
        self._codes: dict[tuple[int, int], int] = {}
        self.main = self.graph("main")

    def graph(self, name: str) -> "Graph":
        """A new graph."""
        graph = Graph(self, len(self._model.subgraphs), name)
        self._model.subgraphs.append(graph.table)
        return graph

    def buffer(self, content: bytes) -> int:
        """The number of a buffer with this content."""
        if content not in self._buffers:
            self._buffers[content] = len(self._model.buffers)
            self._model.buffers.append(_Buffer(content))
        return self._buffers[content]

    def quantization(self, quantization: Quantization) -> schema.QuantizationParametersT:
        """What the schema has for it."""
        if quantization not in self._quantizations:
            scales = quantization.scale if isinstance(quantization.scale, tuple) else (quantization.scale,)
            vectors = np.array(scales, np.float32), np.full(len(scales), quantization.zero_point, np.int64)
            self._quantizations[quantization] = _Quantization(*vectors, self._places)
        return self._quantizations[quantization]

    def operator(self, builtin: int, version: int) -> int:
        """The number of an operator's code."""
        if (builtin, version) not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
            self._codes[builtin, version] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return self._codes[builtin, version]

    def finish(self, metadata: dict[str, bytes]) -> bytes:
        """The file's content, with the main graph's named inputs and outputs as its signature."""
        for name, content in metadata.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, self.buffer(content)
            self._model.metadata.append(entry)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [self.main.named(index) for index in self.main.table.inputs]
        signature.outputs = [self.main.named(index) for index in self.main.table.outputs]
        self._model.signatureDefs.append(signature)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


class Graph:
    """A graph of a model in the making."""

    def __init__(self, model: ModelWriter, index: int, name: str):
        self.model, self.index = model, index
        self.table = schema.SubGraphT()
        self.table.name = name
        self.table.tensors, self.table.operators, self.table.inputs, self.table.outputs = [], [], [], []
        self._constants: dict[tuple, Tensor] = {}

    def tensor(
        self, shape: Sequence[int], form: Form = FLOAT, *, name: str = "", content: bytes | None = None
    ) -> Tensor:
        """A value that an operator will give, or a constant."""
        item = schema.TensorT()
        item.shape, item.type, item.name = list(shape), _TYPES[form.dtype], name or None
        item.buffer = 0 if content is None else self.model.buffer(content)
        if form.quantization is not None:
            item.quantization = self.model.quantization(form.quantization)
        self.table.tensors.append(item)
        return Tensor(len(self.table.tensors) - 1, tuple(shape), form)

    def input(self, name: str, shape: Sequence[int], form: Form = FLOAT) -> Tensor:
        """The graph's next input."""
        tensor = self.tensor(shape, form, name=name)
        self.table.inputs.append(tensor.index)
        return tensor

    def output(self, name: str, tensor: Tensor) -> None:
        """Makes a tensor the graph's next output."""
        self.table.tensors[tensor.index].name = name
        self.table.outputs.append(tensor.index)

    def constant(self, array: np.ndarray, quantization: Quantization | None = None) -> Tensor:
        """A constant with the array's type."""
        array = np.ascontiguousarray(array)
        content, form = array.tobytes(), Form(array.dtype.name, quantization)
        key = (content, array.shape, form)
        if key not in self._constants:
            self._constants[key] = self.tensor(array.shape, form, content=content)
        return self._constants[key]

    def add(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], version: int = 1, **options) -> None:
        """An operator, named as in the schema's BuiltinOperator, with its options as the schema names them."""
        item = schema.OperatorT()
        item.opcodeIndex = self.model.operator(getattr(schema.BuiltinOperator, name), version)
        item.inputs, item.outputs = [each.index for each in inputs], [each.index for each in outputs]
        kind = _OPTIONS.get(name, name.title().replace("_", "") + "Options")
        if kind is None and options:
            raise AttributeError(f"{name} has no options; got {', '.join(options)}")
        if kind is not None:
            item.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            item.builtinOptions = getattr(schema, kind + "T")()
            for key, value in options.items():
                getattr(item.builtinOptions, key)  # an option that the schema doesn't have is an error
                setattr(item.builtinOptions, key, value)
        self.table.operators.append(item)

    def apply(self, name: str, inputs: Sequence[Tensor], shape: Sequence[int], form: Form = FLOAT, **options) -> Tensor:
        """An operator with one output, which is returned."""
        output = self.tensor(shape, form)
        self.add(name, inputs, [output], **options)
        return output

    def splice(self, content: bytes, inputs: Sequence[Tensor], *, half: bool = False) -> list[Tensor]:
        """Adds the operators of another model's only graph, fed with `inputs`; returns its outputs.

        Args:
            half: store its large constants in float16.
        """
        other = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        (graph,) = other.subgraphs
        names = {value: name for name, value in _TYPES.items()}
        moved = dict(zip(graph.inputs, inputs, strict=True))
        for index, item in enumerate(graph.tensors):
            if index in moved:
                continue
            data = other.buffers[item.buffer].data
            shape = () if item.shape is None else tuple(int(size) for size in item.shape)
            if data is None or not len(data):
                item.buffer, item.name = 0, None
                self.table.tensors.append(item)
                moved[index] = Tensor(len(self.table.tensors) - 1, shape, FLOAT)
            else:
                array = np.frombuffer(bytes(data), names[item.type]).reshape(shape)
                large = array.dtype == np.float32 and array.size > 1024
                moved[index] = self.half_constant(array) if half and large else self.constant(array)
        for item in graph.operators:
            code = other.operatorCodes[item.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            if builtin == schema.BuiltinOperator.CUSTOM:
                name = f"custom {code.customCode.decode()}"
                raise ExportError(f"the graph needs operators that LiteRT doesn't have built in: {name}")
            item.opcodeIndex = self.model.operator(builtin, code.version)
            item.inputs = [moved[index].index if index >= 0 else -1 for index in item.inputs]
            item.outputs = [moved[index].index for index in item.outputs]
            self.table.operators.append(item)
        return [moved[index] for index in graph.outputs]

    def half_constant(self, array: np.ndarray) -> Tensor:
        """A float32 constant that is stored in float16."""
        return self.apply("DEQUANTIZE", [self.constant(array.astype(np.float16))], array.shape, version=3)

    def named(self, index: int) -> schema.TensorMapT:
        """A tensor as a signature names it."""
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = self.table.tensors[index].name, index
        return entry
