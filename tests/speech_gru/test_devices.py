"""What a machine computes on and in. GPUs are stood in for: what counts is what TensorFlow says about them."""

import json
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.errors import UserError
from speech_gru.config import TrainingSettings
from speech_gru.devices import (
    broadcast,
    choose_strategy,
    describe_devices,
    describe_gru,
    host,
    policy_for,
    set_variables,
    use_cudnn,
)


@pytest.fixture
def machine(monkeypatch):
    """A function that makes TensorFlow report GPUs of these details."""

    def has(*details: dict) -> None:
        gpus = [SimpleNamespace(name=f"/physical_device:GPU:{index}", details=one) for index, one in enumerate(details)]
        for listing in ("list_physical_devices", "list_logical_devices"):
            monkeypatch.setattr(tf.config, listing, lambda kind: gpus if kind == "GPU" else [])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpu.details)

    return has


class TestPrecision:
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
    def test_auto_takes_what_the_gpu_gains_from(self, machine, capability, policy):
        machine({"compute_capability": capability} if capability else {})
        assert policy_for("auto") == policy

    def test_auto_is_float32_without_a_gpu(self, machine):
        machine()
        assert policy_for("auto") == "float32"

    @pytest.mark.parametrize(
        ("precision", "policy"),
        [("float32", "float32"), ("float16", "mixed_float16"), ("bfloat16", "mixed_bfloat16")],
    )
    def test_what_is_asked_for_is_taken_on_any_machine(self, machine, precision, policy):
        for gpus in ([], [{"compute_capability": (8, 0)}]):
            machine(*gpus)
            assert policy_for(precision) == policy
        assert keras.dtype_policies.get(policy).name == policy  # Keras knows it


class TestGRU:
    @pytest.mark.parametrize(
        ("gpus", "settings", "cudnn", "described"),
        [
            (0, {}, False, "Keras's loop (no GPU, so no cuDNN)"),
            (0, {"cudnn": False}, False, "Keras's loop (no GPU, so no cuDNN)"),
            (0, {"xla": True}, False, "unrolled, compiled by XLA (no GPU)"),
            (1, {}, True, "cuDNN"),
            (2, {}, True, "cuDNN"),
            (1, {"cudnn": False}, False, "Keras's loop; no cuDNN, because of training.cudnn: false"),
            (1, {"xla": True}, False, "unrolled, compiled by XLA; no cuDNN, because of training.xla: true"),
            (
                1,
                {"xla": True, "cudnn": False},
                False,
                "unrolled, compiled by XLA; no cuDNN, because of training.xla: true",
            ),
        ],
    )
    def test_what_it_is_computed_with_and_why(self, machine, gpus, settings, cudnn, described):
        machine(*[{}] * gpus)
        assert use_cudnn(TrainingSettings(**settings)) is cudnn
        assert describe_gru(TrainingSettings(**settings)) == described


def cluster(workers: int, index: int = 0, **changes) -> str:
    names = [f"127.0.0.1:{2000 + number}" for number in range(workers)]
    return json.dumps({"cluster": {"worker": names}, "task": {"type": "worker", "index": index}} | changes)


def several_hosts(number: int, replicas: int, hosts: int):
    """In place of a strategy that needs as many machines."""
    spec = tf.train.ClusterSpec({"worker": [f"h{index}:1" for index in range(hosts)]})
    resolver = SimpleNamespace(task_id=number, cluster_spec=lambda: spec)
    return SimpleNamespace(num_replicas_in_sync=replicas, cluster_resolver=resolver)


class TestStrategy:
    @pytest.fixture(autouse=True)
    def kinds(self, monkeypatch):
        """The strategies for several devices, stood in for by their names."""
        monkeypatch.delenv("TF_CONFIG", raising=False)
        for name in ("MirroredStrategy", "MultiWorkerMirroredStrategy"):
            monkeypatch.setattr(tf.distribute, name, lambda name=name: name)

    def test_one_device_needs_none(self, machine):
        for gpus in ([], [{}]):
            machine(*gpus)
            assert choose_strategy() is tf.distribute.get_strategy()
            assert host(choose_strategy()) == (0, 1)

    def test_all_gpus_of_a_machine(self, machine):
        machine({}, {})
        assert choose_strategy() == "MirroredStrategy"

    @pytest.mark.parametrize("index", [0, 2])
    def test_all_hosts_of_a_cluster(self, machine, monkeypatch, index):
        machine({}, {})
        monkeypatch.setenv("TF_CONFIG", cluster(3, index))
        assert choose_strategy() == "MultiWorkerMirroredStrategy"

    @pytest.mark.parametrize("given", ["", cluster(1)])
    def test_a_cluster_of_one_is_none(self, machine, monkeypatch, given):
        monkeypatch.setenv("TF_CONFIG", given)
        machine()
        assert choose_strategy() is tf.distribute.get_strategy()
        machine({}, {})
        assert choose_strategy() == "MirroredStrategy"

    @pytest.mark.parametrize(
        "given",
        [
            "{",
            "[]",
            "{}",
            "3",
            cluster(2, 2),
            cluster(2, -1),
            cluster(0),
            cluster(2, task={"type": "chief", "index": 0}),
            cluster(2, task={"type": "worker"}),
            cluster(2, task={"type": "worker", "index": "0"}),
            cluster(2, task=None),
            cluster(2, cluster={"worker": ["a:1"], "ps": ["b:1"]}),
            cluster(2, cluster={"chief": ["a:1"]}),
            cluster(2, cluster={"worker": None}),
        ],
    )
    def test_a_cluster_that_is_none(self, monkeypatch, given):
        monkeypatch.setenv("TF_CONFIG", given)
        with pytest.raises(UserError, match=r'^TF_CONFIG: expected \{"cluster": .*, got ' + re.escape(given)):
            choose_strategy()

    def test_a_hosts_number(self):
        assert host(several_hosts(2, 3, 3)) == (2, 3)


def test_devices_are_named(machine):
    machine()
    assert re.fullmatch(r"CPU \((\d+|all) threads\)", describe_devices())
    machine({"device_name": "Fast 1"}, {})
    assert describe_devices() == "GPU: Fast 1, /physical_device:GPU:1"
    assert describe_devices(tf.distribute.get_strategy()) == describe_devices()
    assert describe_devices(several_hosts(1, 6, 3)) == (
        "6 devices on 3 host(s); on this one, number 1: GPU: Fast 1, /physical_device:GPU:1"
    )


def test_one_host_need_send_nothing():
    arrays = [np.array([2**32 - 1], np.uint32), np.array(np.nan, np.float32)]
    for sent, got in zip(arrays, broadcast(tf.distribute.get_strategy(), arrays), strict=True):
        assert got is sent


def test_variables_are_filled():
    variables = [
        keras.Variable(np.zeros(2, np.uint32), dtype="uint32"),
        keras.Variable(np.zeros((1, 2), np.float32)),
    ]
    set_variables(variables, [np.array([2**32 - 1, 5], np.uint32), np.array([[1.5, -2]], np.float32)])
    assert [variable.numpy().tolist() for variable in variables] == [[2**32 - 1, 5], [[1.5, -2]]]
