"""For microcontrollers: the step model as C source, with the operators and the memory it needs.

The model takes the features of a chunk, which the device computes as the files for streams do (see the model card), and
the states, and gives logits and new states, in int8 and int16. LiteRT for Microcontrollers (TFLite Micro) runs it.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.errors import ExportError
from export.tflite import operators

_LINE = 16
"""Bytes on a line of the array."""
_ALIGNMENT = 16
_TENSOR_BYTES, _OPERATOR_BYTES = 96, 128
"""About what TFLite Micro keeps for each, constants' quantisation included."""


def write_micro(model: bytes, folder: Path) -> None:
    """Writes `folder` with model.tflite, model.h and model.cc.

    Args:
        model: the step model, see export.tflite.write_step.
    """
    folder.mkdir()
    (folder / "model.tflite").write_bytes(model)
    arena, how = arena_bytes(model)
    calls = "\n".join(f"//   resolver.Add{name}();" for name in sorted(map(_method, operators(model))))
    header = f"""// The step model of a speech_gru run, for LiteRT for Microcontrollers; see model.cc and MODEL_CARD.md.
#ifndef SPEECH_GRU_MODEL_H_
#define SPEECH_GRU_MODEL_H_

extern const unsigned char speech_gru_model[];
extern const int speech_gru_model_bytes;

// Bytes of the tensor arena: {how}.
constexpr int kSpeechGruArenaBytes = {arena};

// The operators, for a MicroMutableOpResolver<{len(operators(model))}>:
{calls}

#endif  // SPEECH_GRU_MODEL_H_
"""
    rows = (
        ", ".join(f"0x{byte:02x}" for byte in model[start : start + _LINE]) for start in range(0, len(model), _LINE)
    )
    body = ",\n".join(f"    {row}" for row in rows)
    (folder / "model.h").write_text(header, encoding="utf-8")
    source = f'#include "model.h"\n\nalignas(16) const unsigned char speech_gru_model[] = {{\n{body}}};\n'
    (folder / "model.cc").write_text(f"{source}const int speech_gru_model_bytes = {len(model)};\n", encoding="utf-8")


def _method(operator: str) -> str:
    """FULLY_CONNECTED -> FullyConnected, as MicroMutableOpResolver spells it."""
    return operator.title().replace("_", "").replace("Matmul", "MatMul")


def arena_bytes(model: bytes) -> tuple[int, str]:
    """The tensor arena's size in bytes, and how it was found."""
    try:
        from tflite_micro import runtime
    except ModuleNotFoundError:
        return _estimate(model), "computed from the tensors' sizes, not measured; leave it a margin"

    def fits(size: int) -> bool:
        try:
            _captured(lambda: runtime.Interpreter.from_bytes(model, arena_size=size))
        except RuntimeError:
            return False
        return True

    high = _plenty(model)
    if not fits(high):
        raise ExportError(f"TFLite Micro can't run the step model, not even in {high:,} bytes")
    report = _captured(runtime.Interpreter.from_bytes(model, arena_size=high).print_allocations)
    found = re.search(r"Arena allocation total (\d+) bytes", report)
    if found is None:
        raise ExportError(f"TFLite Micro doesn't say how large the arena is, but: {report[:200]}")
    # That leaves out what its planner needs for a moment. In much less than that it crashes.
    low = int(found[1])
    while high - low > _ALIGNMENT:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    high += -high % _ALIGNMENT
    return high, "the least in which TFLite Micro's interpreter starts on a 64-bit machine; a 32-bit one needs less"


def _plenty(model: bytes) -> int:
    return 4 * _estimate(model) + (1 << 20)


def _estimate(model: bytes) -> int:
    """All activations at once, and what the interpreter keeps for each tensor and operator."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    (graph,) = tree.subgraphs
    sizes = {schema.TensorType.INT8: 1, schema.TensorType.INT16: 2, schema.TensorType.FLOAT32: 4}
    activations = [item for item in graph.tensors if tree.buffers[item.buffer].data is None]
    numbers = sum(sizes[item.type] * int(np.prod(item.shape)) for item in activations)
    return numbers + _TENSOR_BYTES * len(graph.tensors) + _OPERATOR_BYTES * len(graph.operators)


def _captured(function) -> str:
    """What native code prints on standard error meanwhile."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            function()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode(errors="replace")


class MicroFile:
    """The step model in TFLite Micro's own interpreter, what a microcontroller computes; used as a LiteFile is.

    Raises:
        ModuleNotFoundError: tflite_micro isn't installed.
    """

    def __init__(self, model: bytes):
        from tflite_micro import runtime

        self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=_plenty(model))

    @property
    def quantization(self) -> list[tuple[float, int]]:
        """(scale, zero point) of the first input and of the first output."""
        details = self._interpreter.get_input_details(0), self._interpreter.get_output_details(0)
        found = [item["quantization_parameters"] for item in details]
        return [(float(item["scales"][0]), int(item["zero_points"][0])) for item in found]

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The logits and the new states, of features and states."""
        for index, values in enumerate(inputs):
            self._interpreter.set_input(values, index)
        self._interpreter.invoke()
        return [self._interpreter.get_output(index) for index in range(len(inputs))]
