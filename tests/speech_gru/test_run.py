"""A run directory is rebuilt as it was trained; a damaged or foreign one is refused and runs nothing."""

import io
import pickle
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

from data_pipeline.errors import UserError
from speech_gru.config import load_config
from speech_gru.run import build_from_config, load_run
from speech_gru.training import dtype_policy


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    """A run directory to be damaged."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


@pytest.fixture
def clips():
    return np.random.default_rng(0).normal(0, 0.1, (3, 4000)).astype(np.float32)


def test_the_parts_are_those_of_the_training(tiny_run, tiny_config, clips):
    run = load_run(tiny_run)
    assert run.folder == tiny_run
    assert run.config == tiny_config
    assert run.labels == ("tief", "mittel", "höher", "_unknown_", "_silence_")
    stored = keras.saving.load_model(tiny_run / "model.keras", compile=False)
    np.testing.assert_array_equal(run.recognizer(clips), stored(clips))
    features = run.front_end(clips).numpy()
    assert np.abs(features).mean() < 10  # MFCCs are in the tens to hundreds unless they are normalised


def test_whatever_it_was_trained_in_it_comes_back_in_float32(tiny_run, run_copy, clips):
    config = load_config(run_copy / "config.yaml")
    with dtype_policy("mixed_bfloat16"):
        _, trained = build_from_config(config, 5)
    trained.load_weights(tiny_run / "model.keras")
    trained.save(run_copy / "model.keras")
    recognizer = load_run(run_copy).recognizer
    assert {layer.compute_dtype for layer in recognizer._flatten_layers()} == {"float32"}
    np.testing.assert_array_equal(recognizer(clips), load_run(tiny_run).recognizer(clips))


def test_each_of_two_runs_has_its_own_weights(tiny_run, run_copy, clips):
    """The second is built in a process that already has layers of those names."""
    first = load_run(tiny_run)
    before = first.recognizer(clips).numpy()
    load_run(run_copy).recognizer.set_weights([weight * 0 for weight in first.recognizer.get_weights()])
    np.testing.assert_array_equal(first.recognizer(clips), before)


@pytest.mark.parametrize("name", ["config.yaml", "labels.txt", "model.keras"])
def test_a_missing_file_is_named(run_copy, name):
    (run_copy / name).unlink()
    with pytest.raises(UserError, match=f"is no finished run: {name} is missing"):
        load_run(run_copy)


@pytest.mark.parametrize("folder", ["", "nowhere", "file"])
def test_what_is_no_run_directory(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is no finished run"):
        load_run(tmp_path / folder)


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, -1])
def test_truncated_weights(run_copy, kept):
    file = run_copy / "model.keras"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.keras doesn't hold the weights of the config\.yaml"):
        load_run(run_copy)


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_for_weights(run_copy, seed):
    (run_copy / "model.keras").write_bytes(np.random.default_rng(seed).bytes(5000))
    with pytest.raises(UserError, match="doesn't hold the weights"):
        load_run(run_copy)


def test_a_changed_byte_in_the_weights(run_copy):
    """Each member of the archive has a CRC-32."""
    content = bytearray((run_copy / "model.keras").read_bytes())
    with zipfile.ZipFile(run_copy / "model.keras") as archive:
        start = archive.getinfo("model.weights.h5").header_offset
    weight = load_run(run_copy).recognizer.get_layer("encoder_and_head").get_layer("head").get_weights()[0]
    place = content.index(weight.tobytes(), start)
    content[place] ^= 1
    (run_copy / "model.keras").write_bytes(content)
    with pytest.raises(UserError, match="doesn't hold the weights"):
        load_run(run_copy)


@pytest.mark.parametrize("change", ["units: 9", "layers: 1", "convolution_filters: 3", "pooling: mean"])
def test_weights_of_another_config(run_copy, change):
    key = change.partition(":")[0]
    text = (run_copy / "config.yaml").read_text(encoding="utf-8").splitlines()
    (run_copy / "config.yaml").write_text("\n".join(f"  {change}" if f"  {key}:" in line else line for line in text))
    with pytest.raises(UserError, match="doesn't hold the weights"):
        load_run(run_copy)


@pytest.mark.parametrize("labels", ["a\n", "", "a\nb\na\nc\nd\n", "a\nb\nc\n"])
def test_labels_that_do_not_fit(run_copy, labels):
    (run_copy / "labels.txt").write_text(labels)
    with pytest.raises(UserError, match=r"labels\.txt"):
        load_run(run_copy)


def test_labels_that_are_no_text(run_copy):
    (run_copy / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"labels\.txt can't be read"):
        load_run(run_copy)


def test_a_config_that_is_no_config(run_copy):
    (run_copy / "config.yaml").write_text("model: !!python/object/apply:os.system [false]\n")
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_run(run_copy)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def replace_member(file, name: str, content: bytes, compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for member, old in {**members, name: content}.items():
            archive.writestr(member, content if member == name else old)


class TestHostileFiles:
    def test_a_pickle_runs_nothing(self, run_copy, tmp_path):
        made = tmp_path / "made"
        pickle.loads(pickle.dumps(Evil(tmp_path / "works"))).close()
        assert (tmp_path / "works").exists()  # it would
        replace_member(run_copy / "model.keras", "model.weights.h5", pickle.dumps(Evil(made)))
        with pytest.raises(UserError, match="doesn't hold the weights"):
            load_run(run_copy)
        (run_copy / "model.keras").write_bytes(pickle.dumps(Evil(made)))
        with pytest.raises(UserError, match="doesn't hold the weights"):
            load_run(run_copy)
        assert not made.exists()

    def test_a_lambda_in_the_stored_architecture_is_not_even_read(self, run_copy, tiny_run, clips):
        config = b'{"module": "os", "class_name": "abort", "config": {}, "registered_name": "abort"}'
        replace_member(run_copy / "model.keras", "config.json", config)
        np.testing.assert_array_equal(load_run(run_copy).recognizer(clips), load_run(tiny_run).recognizer(clips))

    @pytest.mark.parametrize("name", ["model.weights.h5", "config.json", "more"])
    def test_a_zip_bomb_is_not_unpacked(self, run_copy, name):
        replace_member(run_copy / "model.keras", name, b"\0" * 100_000_000, zipfile.ZIP_DEFLATED)
        with pytest.raises(UserError, match="it would unpack to 100,"):
            load_run(run_copy)

    def test_a_weight_that_lies_in_another_file_is_not_read(self, run_copy, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(np.full(40, 7, np.float32).tobytes())
        with zipfile.ZipFile(run_copy / "model.keras") as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "r+") as file:
            path = "layers/functional/layers/dense/vars"
            shape = file[path]["1"].shape
            del file[path]["1"]
            file[path].create_dataset("1", shape, "f4", external=[(str(secret), 0, shape[0] * 4)])
        replace_member(run_copy / "model.keras", "model.weights.h5", weights.getvalue())
        with pytest.raises(UserError, match="doesn't hold the weights"):
            load_run(run_copy)
