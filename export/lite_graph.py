"""The encoder and its head in LiteRT's built-in operators, in any number format, for whole clips or step by step.

A GRU layer is one matrix product for the input of all steps, and for each step one IF operator whose two branches are
the same graph: a call. The step's weights are so in the file once, and no loop copies the clip from step to step, which
is what makes a WHILE slow. `export.reference` is what all of it must be equal to.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from export.encoder import Convolution, Encoder, Gru
from export.flatbuffer import FLOAT, Form, Graph, Quantization, Tensor
from export.number_format import UNIT, NumberFormat, form_of, least_scale, quantize_bias, quantize_weights
from export.reference import Ranges

_CLOSED = -20.0
"""What a gate takes for closed: its logistic function is 2e-9."""
_RELU = 1  # schema.ActivationFunctionType.RELU


class LiteGraph:
    """Adds the encoder's parts to a graph.

    Args:
        ranges: of all activations (see export.reference.Ranges); of no account in a format of floats.
    """

    def __init__(self, graph: Graph, encoder: Encoder, format: NumberFormat, ranges: Ranges):
        self.graph, self.encoder, self.format, self.ranges = graph, encoder, format, ranges

    # Number formats

    def products_form(self, name: str) -> Form:
        """What matrix products take or give as the activation of this name."""
        return form_of(self.format.products, self.ranges[name]) if self.format.is_integer else FLOAT

    def gates_form(self, name: str) -> Form:
        """What the gates take as the activation of this name."""
        if not self.format.is_integer:
            return FLOAT
        found = self.ranges[name]
        if self.encoder.is_ctc and self.encoder.bidirectional and name.endswith(("/projected", "/gates")):
            found = replace(found, low=min(found.low, _CLOSED))
        return form_of(self.format.gates, found)

    @property
    def state_form(self) -> Form:
        """What GRU states are."""
        return UNIT if self.format.is_integer else FLOAT

    def cast(self, tensor: Tensor, form: Form, graph: Graph | None = None) -> Tensor:
        """The same values in another form."""
        if tensor.form == form:
            return tensor
        operator, version = ("DEQUANTIZE", 3) if form == FLOAT else ("QUANTIZE", 2)
        return (graph or self.graph).apply(operator, [tensor], tensor.shape, form, version=version)

    def _weights(self, graph: Graph, kernel: np.ndarray, bias: np.ndarray, inputs: Form) -> list[Tensor]:
        """Kernel (outputs first) and bias as constants."""
        if self.format.weights == "float32":
            return [graph.constant(kernel), graph.constant(bias)]
        if self.format.weights == "float16":
            return [graph.half_constant(kernel), graph.constant(bias)]
        least = least_scale(bias, inputs) if self.format.is_integer else 0.0
        values, quantization = quantize_weights(kernel, least)
        weights = graph.constant(values, quantization)
        if not self.format.is_integer:
            return [weights, graph.constant(bias)]
        return [weights, graph.constant(*quantize_bias(bias, inputs, quantization))]

    # Masks

    def within(self, samples: Tensor, ends: np.ndarray) -> Tensor:
        """1 where a frame or step ends within the clip, else 0: (ends, 1) float32.

        Args:
            samples: (1, 1) int32, of the clip.
            ends: sample at which each frame or step ends, (ends,).
        """
        count = len(ends)
        last = self.graph.constant(ends.astype(np.int32).reshape(count, 1))
        inside = self.graph.apply("LESS_EQUAL", [last, samples], (count, 1), Form("bool"))
        return self.graph.apply("CAST", [inside], (count, 1))

    def masked(self, tensor: Tensor, mask: Tensor | None) -> Tensor:
        """A sequence (steps, channels) or (1, steps, bands, channels), zero where the mask (steps, 1) is.

        As it is if there is no mask.
        """
        if mask is None:
            return tensor
        mask = self.reshape(mask, 1, mask.shape[0], 1, 1) if len(tensor.shape) == 4 else mask
        return self.combine("MUL", tensor, self.cast(mask, self._mask_form(tensor.form)), tensor.form)

    @staticmethod
    def _mask_form(form: Form) -> Form:
        """Of a mask of 0 and 1, so that both are exact."""
        highest = {"int8": 127, "int16": 32767}
        return FLOAT if form == FLOAT else Form(form.dtype, Quantization(1 / highest[form.dtype]))

    def _resting(self, projected: Tensor, gru: Gru, mask: Tensor) -> Tensor:
        """A layer's projections (steps, 3 units) with those by which any state becomes zero, where the mask is 0.

        Both gates closed: nothing of the old state stays, and the candidate sees nothing of it. Projections by which a
        state of zero merely stays zero (minus c_h / 2 for the candidate) aren't enough: zero may not be stable, and the
        rounding of integers grows from step to step.
        """
        form = projected.form
        closed = np.full(2 * gru.units, _CLOSED, np.float32)
        rest = self.graph.constant(np.concatenate([closed, np.zeros(gru.units, np.float32)])[None])
        outside = self.graph.apply("SUB", [self.graph.constant(np.ones((1, 1), np.float32)), mask], mask.shape)
        resting = self.combine("MUL", outside, rest, FLOAT, shape=projected.shape)
        return self.combine("ADD", self.masked(projected, mask), self.cast(resting, form), form)

    # Layers

    def dense(
        self, inputs: Tensor, kernel: np.ndarray, bias: np.ndarray, name: str, graph: Graph | None = None
    ) -> Tensor:
        """inputs (rows, channels) times kernel (channels, outputs), plus bias: the activation `name`."""
        graph = graph or self.graph
        weights = self._weights(graph, np.ascontiguousarray(kernel.T), bias, inputs.form)
        shape, form = (inputs.shape[0], kernel.shape[1]), self.products_form(name)
        return graph.apply("FULLY_CONNECTED", [inputs, *weights], shape, form, version=_dense_version(self.format))

    def convolve(self, inputs: Tensor, convolution: Convolution, name: str, with_past: Tensor | None = None) -> Tensor:
        """(1, frames, bands, channels) -> (1, steps, fewer bands, filters), as export.reference.convolve.

        Args:
            with_past: in a stream, the inputs after those that came before, in the place of padding by frames.
        """
        of_frames, of_bands = convolution.padding
        if with_past is None:
            padded = self._padded(inputs, of_frames, of_bands)
        else:
            padded = self._padded(with_past, (0, 0), of_bands)
        kernel = np.ascontiguousarray(np.moveaxis(convolution.kernel, 3, 0))
        seen = zip(padded.shape[1:3], kernel.shape[1:3], convolution.stride, strict=True)
        steps, bands = ((size - width) // stride + 1 for size, width, stride in seen)
        hidden = self.graph.apply(
            "CONV_2D",
            [padded, *self._weights(self.graph, kernel, convolution.bias, inputs.form)],
            (1, steps, bands, len(kernel)),
            self.products_form(f"{name}/relu"),
            version=_dense_version(self.format, convolution=True),
            padding=1,  # valid
            strideH=convolution.stride[0],
            strideW=convolution.stride[1],
            fusedActivationFunction=_RELU,
        )
        if not convolution.residual:
            return hidden
        return self.combine("ADD", hidden, inputs, self.products_form(f"{name}/sum"))

    def _padded(self, tensor: Tensor, frames: tuple[int, int], bands: tuple[int, int]) -> Tensor:
        """(1, frames, bands, channels) with zeros around it."""
        widths = np.array([(0, 0), frames, bands, (0, 0)], np.int32)
        if not widths.any():
            return tensor
        shape = tuple(int(size) for size in tensor.shape + widths.sum(axis=1))
        return self.graph.apply("PAD", [tensor, self.graph.constant(widths)], shape, tensor.form)

    def gru_layer(
        self,
        inputs: Tensor,
        layer: tuple[Gru, ...],
        name: str,
        states: list[Tensor],
        mask: Tensor | None = None,
    ) -> list[list[Tensor]]:
        """All steps' states of each direction, each (1, units) and at its own step.

        Args:
            inputs: (steps, channels), in the products' form.
            states: each direction's state before its first step.
            mask: (steps, 1): backwards the state stays zero until the clip's last step; None: all steps are within it.
        """
        form = self.gates_form(f"{name}/projected")
        projections = [self.cast(self.dense(inputs, gru.kernel, gru.bias, f"{name}/projected"), form) for gru in layer]
        if mask is not None and len(layer) == 2:
            projections[1] = self._resting(projections[1], layer[1], mask)
        rows = [self.split(item, inputs.shape[0], 0) for item in projections]
        orders = [list(range(inputs.shape[0])), list(reversed(range(inputs.shape[0])))][: len(layer)]
        found = [[None] * inputs.shape[0] for _ in layer]
        step = self._step_graph(layer, name) if inputs.shape[0] > 1 else None
        for places in zip(*orders, strict=True):
            now = [row[place] for row, place in zip(rows, places, strict=True)]
            if step is None:
                states = self._step(self.graph, layer, name, now, states)
            else:
                states = self._call(step, now + states, states)
            for direction, place, state in zip(found, places, states, strict=True):
                direction[place] = state
        return found

    def _call(self, step: Graph, inputs: list[Tensor], like: list[Tensor]) -> list[Tensor]:
        outputs = [self.graph.tensor(item.shape, item.form) for item in like]
        always = self.graph.constant(np.array([True]))
        branches = {"thenSubgraphIndex": step.index, "elseSubgraphIndex": step.index}
        self.graph.add("IF", [always, *inputs], outputs, **branches)
        return outputs

    def _step_graph(self, layer: tuple[Gru, ...], name: str) -> Graph:
        """One step of all directions of a layer: inputs the projections, then the states; outputs the new states."""
        graph, form = self.graph.model.graph(f"{name}/step"), self.gates_form(f"{name}/projected")
        now = [graph.input(f"projected_{index}", (1, 3 * gru.units), form) for index, gru in enumerate(layer)]
        states = [graph.input(f"state_{index}", (1, gru.units), self.state_form) for index, gru in enumerate(layer)]
        for index, state in enumerate(self._step(graph, layer, name, now, states)):
            graph.output(f"new_state_{index}", state)
        return graph

    def _step(self, graph: Graph, layer: tuple[Gru, ...], name: str, now: list[Tensor], states: list[Tensor]):
        return [self._gru_step(graph, *each, name) for each in zip(layer, now, states, strict=True)]

    def _gru_step(self, graph: Graph, gru: Gru, projected: Tensor, state: Tensor, name: str) -> Tensor:
        """export.reference.gru_step, with the reset after the product."""
        bias = np.concatenate([np.zeros(2 * gru.units, np.float32), gru.candidate_bias])
        operand = self.cast(state, self._state_operand, graph)
        product = self.dense(operand, gru.recurrent, bias, f"{name}/product", graph)
        product = self.cast(product, self.gates_form(f"{name}/product"), graph)
        given = self.split(projected, 3, 1, graph)
        recurrent = self.split(product, 3, 1, graph)
        update, reset = (
            self._curve("LOGISTIC", self.combine("ADD", *pair, self.gates_form(f"{name}/gates"), graph), graph)
            for pair in zip(given[:2], recurrent[:2], strict=True)
        )
        inner = self.combine("MUL", reset, recurrent[2], self.gates_form(f"{name}/inner"), graph)
        proposal = self.combine("ADD", given[2], inner, self.gates_form(f"{name}/proposal"), graph)
        candidate = self._curve("TANH", proposal, graph)
        twice = Form("int16", Quantization(2 / 32768)) if self.format.is_integer else FLOAT
        kept = self.combine("MUL", update, self.combine("SUB", state, candidate, twice, graph), twice, graph)
        return self.combine("ADD", candidate, kept, self.state_form, graph)

    @property
    def _state_operand(self) -> Form:
        """States as the products take them."""
        return Form("int8", Quantization(1 / 128)) if self.format.products == "int8" else self.state_form

    def _curve(self, operator: str, inputs: Tensor, graph: Graph) -> Tensor:
        return graph.apply(
            operator, [inputs], inputs.shape, self.state_form, version=3 if self.format.is_integer else 1
        )

    # Operators

    def combine(
        self,
        operator: str,
        left: Tensor,
        right: Tensor,
        form: Form,
        graph: Graph | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """ADD, SUB or MUL of two tensors of the left one's shape, or that spread to `shape`."""
        options = {"potScaleInt16": False} if form.dtype == "int16" and operator != "MUL" else {}
        return (graph or self.graph).apply(operator, [left, right], shape or left.shape, form, **options)

    def split(self, tensor: Tensor, parts: int, axis: int, graph: Graph | None = None) -> list[Tensor]:
        """Equal parts along an axis."""
        if parts == 1:
            return [tensor]
        graph = graph or self.graph
        shape = list(tensor.shape)
        shape[axis] //= parts
        outputs = [graph.tensor(shape, tensor.form) for _ in range(parts)]
        graph.add("SPLIT", [graph.constant(np.array(axis, np.int32)), tensor], outputs, numSplits=parts)
        return outputs

    def concatenate(self, tensors: list[Tensor], axis: int) -> Tensor:
        """Tensors of one form, one after the other along an axis."""
        if len(tensors) == 1:
            return tensors[0]
        shape = list(tensors[0].shape)
        shape[axis] = sum(item.shape[axis] for item in tensors)
        return self.graph.apply("CONCATENATION", tensors, shape, tensors[0].form, axis=axis)

    def reshape(self, tensor: Tensor, *shape: int) -> Tensor:
        """The same numbers in another shape."""
        if tensor.shape == shape:
            return tensor
        target = self.graph.constant(np.array(shape, np.int32))
        return self.graph.apply("RESHAPE", [tensor, target], shape, tensor.form, newShape=list(shape))

    def rows(self, tensor: Tensor, start: int, count: int) -> Tensor:
        """Some rows of (rows, channels)."""
        if (start, count) == (0, tensor.shape[0]):
            return tensor
        begin, size = (
            self.graph.constant(np.array([value, last], np.int32)) for value, last in ((start, 0), (count, -1))
        )
        return self.graph.apply("SLICE", [tensor, begin, size], (count, tensor.shape[1]), tensor.form)

    def columns(self, tensor: Tensor, start: int, count: int) -> Tensor:
        """Some columns of (1, columns)."""
        begin, size = (
            self.graph.constant(np.array([first, value], np.int32)) for first, value in ((0, start), (1, count))
        )
        return self.graph.apply("SLICE", [tensor, begin, size], (1, count), tensor.form)

    # The whole

    def convolved(
        self, features: Tensor, pasts: list[Tensor] | None = None, masks: Mapping[int, Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Features (frames, features), in the products' form -> inputs (steps, channels) of the first GRU layer.

        Args:
            pasts: in a stream, what each convolution keeps of the past.
            masks: (steps, 1) each, see `within`, by the frames to a step; None or empty: all are within the clip.

        Returns: the inputs, and what each convolution keeps for the next chunk.
        """
        encoder, kept = self.encoder, []
        if not encoder.convolutions:
            steps = features.shape[0] // encoder.stacked
            used = self.rows(features, 0, steps * encoder.stacked)
            return self.reshape(used, steps, encoder.stacked * encoder.features), []
        hidden, masks, frames = features, masks or {}, features.shape[0]
        for index, convolution in enumerate(encoder.convolutions):
            channels = convolution.kernel.shape[2]
            hidden = self.reshape(hidden, 1, frames, math.prod(hidden.shape) // (frames * channels), channels)
            with_past = None
            if pasts and pasts[index] is not None:
                with_past, newest = self._after(pasts[index], hidden)
                kept.append(newest)
            mask = masks.get(encoder.frames_to_step[index + 1])
            hidden = self.masked(self.convolve(hidden, convolution, f"convolution_{index}", with_past), mask)
            frames = hidden.shape[1]
        return self.reshape(hidden, frames, math.prod(hidden.shape) // frames), kept

    def _after(self, past: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """`past` and `hidden` as one, (1, frames, bands, channels), and of that as many newest frames as `past` has."""
        both = self.concatenate([past, hidden], axis=1)
        begin = self.graph.constant(np.array([0, both.shape[1] - past.shape[1], 0, 0], np.int32))
        size = self.graph.constant(np.array(past.shape, np.int32))
        return both, self.graph.apply("SLICE", [both, begin, size], past.shape, past.form)

    def recurrent(
        self, inputs: Tensor, states: list[Tensor] | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Inputs of the first GRU layer, in the products' form -> the top layer's states (steps, channels).

        Args:
            states: of each layer and direction before its first step; zeros if None.
            mask: (steps, 1), see `within`; None: all steps are within the clip.

        Returns: the top layer's states, and each layer's after its last step.
        """
        given, last, outputs = iter(states or ()), [], None
        for index, layer in enumerate(self.encoder.layers):
            before = list(itertools.islice(given, len(layer))) if states else [self._zeros(gru.units) for gru in layer]
            directions = self.gru_layer(inputs, layer, f"gru_{index}", before, mask)
            last += [directions[0][-1], *(direction[0] for direction in directions[1:])]
            outputs = self.concatenate([self.concatenate(direction, 0) for direction in directions], axis=1)
            inputs = self.cast(outputs, self._state_operand)
        return outputs, last

    def _zeros(self, units: int) -> Tensor:
        if self.state_form == FLOAT:
            return self.graph.constant(np.zeros((1, units), np.float32))
        return self.graph.constant(np.zeros((1, units), np.int16), self.state_form.quantization)

    def pool(self, states: Tensor, last: list[Tensor]) -> Tensor:
        """The top layer's states (steps, channels) -> (1, channels), in float32 unless it is the last state.

        With a CTC head they are what they are.
        """
        pooling, (steps, channels) = self.encoder.pooling, states.shape
        if pooling.kind == "none":
            return states
        if pooling.kind == "last":
            return self.concatenate(last[-len(self.encoder.layers[-1]) :], axis=1)
        floats = self.cast(states, FLOAT)
        if pooling.kind == "mean":
            axis = self.graph.constant(np.array([0], np.int32))
            return self.graph.apply("MEAN", [floats, axis], (1, channels), keepDims=True)
        hidden = self.dense(self.cast(states, self._state_operand), pooling.hidden, pooling.bias, "attention")
        hidden = self.graph.apply("TANH", [self.cast(hidden, FLOAT)], hidden.shape)
        score = [
            self.graph.constant(np.ascontiguousarray(pooling.score.T)),
            self.graph.constant(np.zeros(1, np.float32)),
        ]
        scores = self.graph.apply("FULLY_CONNECTED", [hidden, *score], (steps, 1))
        weights = self.graph.apply("SOFTMAX", [self.reshape(scores, 1, steps)], (1, steps), beta=1.0)
        return self.graph.apply("BATCH_MATMUL", [weights, floats], (1, channels))

    def head(self, pooled: Tensor) -> Tensor:
        """(rows, channels) -> logits (rows, labels), in the products' form."""
        is_state = self.encoder.pooling.kind in ("last", "none")
        operand = self._state_operand if is_state else self.products_form("pooled")
        return self.dense(self.cast(pooled, operand), self.encoder.head, self.encoder.head_bias, "logits")


def _dense_version(format: NumberFormat, convolution: bool = False) -> int:
    """The first version of FULLY_CONNECTED, or of CONV_2D, that knows the form of its numbers."""
    if format.weights != "int8":
        return 1
    if convolution:
        return {"float32": 5, "int8": 3, "int16": 4}[format.products]
    return {"float32": 12, "int8": 12, "int16": 12}[format.products]
