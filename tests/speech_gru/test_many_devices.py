"""Training on several devices and hosts: two logical CPUs in one process, two processes on the loopback interface."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from speech_gru.config import dump_config

PROGRAM = """
import json, sys
import tensorflow as tf
devices, config, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if devices > 1:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
from pathlib import Path
from speech_gru.config import load_config
from speech_gru.training import plan_training, train
strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(devices)]) if devices > 1 else None
config = load_config(config)
plan = plan_training(config, strategy)
history = train(config, plan, Path(folder), report=lambda line: print(line, file=sys.stderr))
print(json.dumps([plan.devices, history]))
"""


def start(devices: int, config, folder, **environment) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(devices), str(config), str(folder)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> tuple[str, list[dict[str, float]]]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory):
    """Without dropout, whose draws hang on the device, and augmentation, whose draws hang on the host."""
    settings = tiny_config.model_dump()
    settings["model"] |= {"dropout": 0, "convolution_filters": 6, "layers": 1}
    settings["training"] |= {"epochs": 3, "warmup_epochs": 0.5, "class_balance": 0.5}
    settings["augment"] |= {"time_shift_ms": 0, "gain_db": None, "noise_probability": 0, "fresh_silence": False}
    settings["augment"] |= {"time_masks": 0, "frequency_masks": 0}
    path = tmp_path_factory.mktemp("many") / "config.yaml"
    path.write_text(dump_config(type(tiny_config).model_validate(settings)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def one_device(config, tmp_path_factory):
    return finish(start(1, config, tmp_path_factory.mktemp("one") / "run"))[1]


def assert_same_curve(history, expected):
    assert len(history) == len(expected) == 3
    for found, wanted in zip(history, expected, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
        assert found["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=1e-3)
        assert found["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-3)
        assert found["learning_rate"] == pytest.approx(wanted["learning_rate"], rel=1e-6)


def test_two_devices_train_as_one_does(config, one_device, tmp_path):
    devices, history = finish(start(2, config, tmp_path / "run"))
    assert devices.startswith("2 devices on 1 host(s)")
    assert_same_curve(history, one_device)


PHRASES = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from speech_gru.config import load_config
from speech_gru.training import adapted_front_end, build_learner, device_batches, plan_training, training_data
config, told = load_config(sys.argv[1]), []
front_end = adapted_front_end(config)
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    plan = plan_training(config, strategy)
    with tf.device("CPU:0"):
        learner, data = build_learner(config, plan, front_end), training_data(config, plan, front_end)
    if told:
        for variable, value in zip(learner.variables, begun, strict=True):
            variable.assign(value)
    begun = [variable.numpy() for variable in learner.variables]
    batches, steps = device_batches(strategy, data, 0), []
    for _ in range(4):
        told_of_step = learner.step(next(batches))
        steps.append([float(told_of_step[name]) for name in ("loss", "gradient_norm", "correct")])
    told.append(steps + [[float(abs(v.numpy()).sum()) for v in learner.model.non_trainable_variables]])
print(json.dumps(told))
"""


def test_phrases_of_two_views_train_on_two_devices_as_on_one(tiny_config, tmp_path):
    """With convolutions, whose normalisation is over both devices' steps and bands; of phrases of different lengths."""
    settings = tiny_config.model_dump()
    settings |= {"compose": {"words": [1, 3], "phrases": 64, "validation_phrases": 8}}
    settings["front_end"] |= {"kind": "log_mel", "deltas": 0}
    settings["model"] |= {"head": "ctc", "dropout": 0, "stem_filters": [4], "convolution_filters": 6, "layers": 1}
    settings["training"] |= {"epochs": 3, "consistency": 0.2}
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(type(tiny_config).model_validate(settings)), encoding="utf-8")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", PHRASES, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    for found, expected in zip(two, one, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(config, folder) -> list[subprocess.Popen]:
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [
        start(
            1,
            config,
            folder,
            TF_CONFIG=json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]


def test_two_hosts_train_as_one_does(config, one_device, tmp_path):
    chief, other = (finish(process) for process in start_workers(config, tmp_path / "run"))
    assert chief[0].startswith("2 devices on 2 host(s); on this one, number 0")
    assert_same_curve(chief[1], one_device)
    assert chief[1] == other[1]
    assert np.isfinite([figures["loss"] for figures in chief[1]]).all()


@pytest.fixture
def start_host(config, tmp_path):
    """A function that starts host 0 or 1 of two with `speech-gru train`; all are ended after the test."""
    workers, started = [f"127.0.0.1:{port}" for port in free_ports(2)], []
    settings = ("training.epochs=30", "training.checkpoint_steps=3")

    def start_host(index: int) -> subprocess.Popen:
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, "-m", "speech_gru", "train", config, "--out", tmp_path / "run"]
        command += [part for setting in settings for part in ("--set", setting)]
        with (tmp_path / f"host-{index}.log").open("a") as log:
            environment = os.environ | {"TF_CONFIG": json.dumps(cluster)}
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        return started[-1]

    yield start_host
    for process in started:
        process.kill()
        process.wait()


def wait_for_checkpoint(run, process: subprocess.Popen) -> None:
    while not list(run.glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.05)


def test_a_killed_host_comes_back_and_the_run_goes_on(start_host, tmp_path):
    run, chief, other = tmp_path / "run", start_host(0), start_host(1)
    wait_for_checkpoint(run, chief)
    other.kill()
    other.wait()
    assert start_host(1).wait(timeout=240) == 0
    assert chief.wait(timeout=60) == 0
    log = (tmp_path / "host-0.log").read_text()
    assert "another host is gone" in log
    assert "going on after step" in log
    assert (run / "model.keras").is_file()
    assert log.count("epoch 30/30") == 1


def test_hosts_stop_together_when_one_is_told_to(start_host, tmp_path):
    chief, other = start_host(0), start_host(1)
    wait_for_checkpoint(tmp_path / "run", chief)
    other.terminate()
    assert (chief.wait(timeout=60), other.wait(timeout=60)) == (143, 143)
    said = {(tmp_path / f"host-{index}.log").read_text().splitlines()[-1] for index in range(2)}
    assert len(said) == 1  # both of the same step
    assert "its state is saved" in said.pop()
