import subprocess
import sys

import numpy as np
import tensorflow as tf

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("speech_gru", "data_pipeline", "export", "ai_edge_litert"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import numpy as np
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
audio = np.load(sys.argv[2])
batches = {str(size): serve(audio=tf.constant(audio[:size]))["probabilities"].numpy() for size in (1, 7, len(audio))}
np.savez(sys.argv[3], **batches)
"""


def test_served_where_there_is_only_tensorflow(tiny_run, tiny_export, tmp_path):
    import keras

    from speech_gru.run import load_run

    audio = np.random.default_rng(0).normal(0, 0.1, (20, 4000)).astype(np.float32)
    np.save(tmp_path / "audio.npy", audio)
    arguments = [tiny_export / "saved_model", tmp_path / "audio.npy", tmp_path / "found.npz"]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    expected = keras.ops.softmax(load_run(tiny_run).recognizer(audio)).numpy()
    with np.load(tmp_path / "found.npz") as found:
        for size in (1, 7, 20):
            assert found[str(size)].dtype == np.float32
            np.testing.assert_allclose(found[str(size)], expected[:size], rtol=0, atol=1e-5)


def test_signature(tiny_export):
    served = tf.saved_model.load(str(tiny_export / "saved_model"))
    assert list(served.signatures) == ["serving_default"]
    signature = served.signatures["serving_default"]
    assert signature.structured_input_signature == (
        (),
        {"audio": tf.TensorSpec((None, 4000), tf.float32, name="audio")},
    )
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in signature.structured_outputs.items()} == {
        "probabilities": ([None, 5], tf.float32)
    }
