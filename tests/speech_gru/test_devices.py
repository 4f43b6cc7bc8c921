"""Which number format a machine gets. GPUs are stood in for: what counts is what TensorFlow says about them."""

from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from speech_gru.devices import describe_device, policy_for


@pytest.fixture
def machine(monkeypatch):
    """A function that makes TensorFlow report GPUs of these details."""

    def has(*details: dict) -> None:
        gpus = [SimpleNamespace(name=f"/physical_device:GPU:{index}", details=one) for index, one in enumerate(details)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus if kind == "GPU" else [])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpu.details)

    return has


@pytest.mark.parametrize(
    ("capability", "policy"),
    [
        ((9, 0), "mixed_bfloat16"),
        ((8, 0), "mixed_bfloat16"),
        ((7, 5), "mixed_float16"),
        ((7, 0), "mixed_float16"),
        ((6, 1), "float32"),
        (None, "float32"),
    ],
)
def test_auto_takes_what_the_gpu_gains_from(machine, capability, policy):
    machine({"compute_capability": capability} if capability else {})
    assert policy_for("auto") == policy


def test_auto_is_float32_without_a_gpu(machine):
    machine()
    assert policy_for("auto") == "float32"


def test_auto_is_float32_on_other_backends(machine, monkeypatch):
    machine({"compute_capability": (9, 0)})
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert policy_for("auto") == "float32"


@pytest.mark.parametrize(
    ("precision", "policy"),
    [("float32", "float32"), ("float16", "mixed_float16"), ("bfloat16", "mixed_bfloat16")],
)
def test_what_is_asked_for_is_taken_on_any_machine(machine, precision, policy):
    machine({"compute_capability": (8, 0)})
    assert policy_for(precision) == policy
    assert keras.dtype_policies.get(policy).name == policy  # Keras knows it


def test_the_device_is_named(machine):
    machine()
    assert describe_device().startswith("CPU")
    machine({"device_name": "Fast 1"}, {})
    assert describe_device() == "GPU: Fast 1, /physical_device:GPU:1"
