"""How far an integer is from the number that it stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from export.flatbuffer import FLOAT, Quantization
from export.number_format import FORMATS, UNIT, form_of, least_scale, quantize_bias, quantize_weights
from export.reference import Range

numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
ordered = st.lists(numbers, min_size=4, max_size=4).map(sorted)
weights = st.floats(-100, 100, width=32, allow_subnormal=False)


def dequantized(values: np.ndarray, quantization: Quantization) -> np.ndarray:
    return np.array(quantization.scale, np.float64) * (values.astype(np.float64) - quantization.zero_point)


def there_and_back(values: np.ndarray, form) -> np.ndarray:
    limits = np.iinfo(form.dtype)
    integers = np.round(values / form.quantization.scale) + form.quantization.zero_point
    return dequantized(np.clip(integers, limits.min, limits.max), form.quantization)


@given(ordered)
def test_int8_holds_the_usual_values(values):
    low, usual_low, usual_high, high = values
    form = form_of("int8", Range(low, high, usual_low, usual_high))
    scale, zero = form.quantization.scale, form.quantization.zero_point
    assert -128 <= zero <= 127
    assert scale <= (max(usual_high, 1e-6) - min(usual_low, 0)) / 255 * (1 + 1e-9)
    inside = np.linspace(usual_low, usual_high, 50)
    assert np.abs(there_and_back(inside, form) - inside).max() <= 1.001 * scale  # at the edges, zero's rounding too
    assert there_and_back(np.zeros(1), form)[0] == 0


def test_int8_cuts_off_the_rare_values():
    form = form_of("int8", Range(-1000, 2000, -1, 3))
    assert form.quantization == Quantization(4 / 255, -64)
    np.testing.assert_allclose(there_and_back(np.array([-1000, 2000]), form), [-1, 3], atol=4 / 255)


@given(ordered)
def test_int16_is_symmetric_and_holds_all_values(values):
    low, usual_low, usual_high, high = values
    form = form_of("int16", Range(low, high, usual_low, usual_high))
    assert form.quantization.zero_point == 0
    inside = np.linspace(low, high, 50)
    assert np.abs(there_and_back(inside, form) - inside).max() <= 0.501 * form.quantization.scale
    assert form.quantization.scale <= max(-low, high, 1e-6) / 32767 * (1 + 1e-9)


def test_floats_have_no_quantisation():
    assert form_of("float32", Range(-1, 1, -1, 1)) == FLOAT


def test_what_the_curves_give():
    assert (UNIT.dtype, UNIT.quantization) == ("int16", Quantization(2.0**-15))


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=5), elements=weights))
def test_weights_have_a_scale_for_each_output(kernel):
    values, quantization = quantize_weights(kernel)
    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max() <= 127
    assert quantization.zero_point == 0
    assert len(quantization.scale) == len(kernel)
    for row, integers, scale in zip(kernel, values, quantization.scale, strict=True):
        assert scale > 0
        assert np.abs(integers * scale - row).max() <= 0.51 * scale
        assert scale == pytest.approx(max(np.abs(row).max() / 127, 1e-20), rel=1e-5)


def test_an_output_without_weights():
    values, quantization = quantize_weights(np.array([[0, 0], [0.5, -1]], np.float32))
    np.testing.assert_array_equal(values, [[0, 0], [64, -127]])
    assert quantization.scale[0] > 0


@pytest.mark.parametrize(("dtype", "sums"), [("int8", np.int32), ("int16", np.int64)])
@given(arrays(np.float32, 3, elements=weights), ordered)
def test_a_bias_has_the_scale_of_the_sums(dtype, sums, bias, values):
    inputs = form_of(dtype, Range(*np.array(values)[[0, 3, 1, 2]]))
    scale = (0.5, 1.0, 2.0)
    found, quantization = quantize_bias(bias, inputs, Quantization(scale))
    assert found.dtype == sums
    expected = np.array(scale) * inputs.quantization.scale
    np.testing.assert_allclose(quantization.scale, expected, rtol=1e-6)
    representable = np.abs(bias) < expected * 2**31
    assert (np.abs(found * expected - bias) <= 0.501 * expected)[representable].all()
    assert (np.sign(found) * np.sign(bias) >= 0).all()


def test_a_bias_beyond_int32_is_cut_off():
    inputs = form_of("int8", Range(0, 1e-6, 0, 1e-6))
    found, _ = quantize_bias(np.array([1e9, -1e9], np.float32), inputs, Quantization((1e-3, 1e-3)))
    assert found.tolist() == [2**31 - 1, 1 - 2**31]


@pytest.mark.parametrize(("dtype", "sums"), [("int8", np.int32), ("int16", np.int64)])
@given(arrays(np.float32, 3, elements=weights), st.floats(0, 1e-3), ordered)
def test_a_bias_beside_tiny_weights_does_not_overflow(dtype, sums, bias, size, values):
    inputs = form_of(dtype, Range(*np.array(values)[[0, 3, 1, 2]]))
    kernel = (size * np.array([[1, -0.5], [0.25, 1], [0, 0]])).astype(np.float32)
    _, quantization = quantize_weights(kernel, least_scale(bias, inputs))
    found, scale = quantize_bias(bias, inputs, quantization)
    assert found.dtype == sums
    assert np.abs(found).max() <= 2**30 + 2**7  # a float32 scale is rounded
    np.testing.assert_allclose(found * np.array(scale.scale), bias, rtol=1e-6, atol=0.51 * max(scale.scale))


def test_formats():
    assert {name: (item.name, item.is_integer) for name, item in FORMATS.items()} == {
        "float32": ("float32", False),
        "float16": ("float16", False),
        "dynamic_range": ("dynamic_range", False),
        "int8": ("int8", True),
        "int16x8": ("int16x8", True),
    }
    assert {item.gates for item in FORMATS.values() if item.is_integer} == {"int16"}
