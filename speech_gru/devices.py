"""What a training run computes on and in: devices, hosts, number format, cuDNN."""

import json
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipeline.errors import UserError
from speech_gru.config import TrainingSettings


def choose_strategy() -> tf.distribute.Strategy:
    """All hosts that TF_CONFIG names, else all GPUs of this one, else its one device.

    To be called before TensorFlow computes anything: with several hosts it opens the connections between them.

    Raises:
        UserError: TF_CONFIG isn't a cluster of workers.
    """
    if _workers() > 1:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (RuntimeError, ValueError, tf.errors.OpError) as error:  # a port that is taken, a host that doesn't come
            raise UserError(f"the hosts of TF_CONFIG can't be brought together: {error}") from error
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _workers() -> int:
    """How many hosts train together."""
    given = os.environ.get("TF_CONFIG")
    if not given:
        return 1
    try:
        config = json.loads(given)
        workers, task = config["cluster"]["worker"], config["task"]
        if set(config["cluster"]) == {"worker"} and task["type"] == "worker" and 0 <= task["index"] < len(workers):
            return len(workers)
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        'TF_CONFIG: expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}} with '
        f"N below the number of workers, got {given}"
    )


def host(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """(this host's number, how many hosts there are); host 0 is the chief, which writes the run directory."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return 0, 1
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def broadcast(strategy: tf.distribute.Strategy, arrays: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """The chief's arrays on every host; called by all hosts at the same point, by the others with arrays of that shape.

    What goes over the wire is float64, which holds all numbers of a training run exactly.
    """
    if host(strategy)[1] == 1:
        return list(arrays)
    is_chief = host(strategy)[0] == 0
    flat = np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])
    own = sum_over_hosts(strategy, flat * is_chief)
    ends = np.cumsum([np.size(array) for array in arrays])
    parts = np.split(own, ends[:-1])
    return [part.reshape(np.shape(array)).astype(array.dtype) for part, array in zip(parts, arrays, strict=True)]


def agree(strategy: tf.distribute.Strategy, error: UserError | None) -> None:
    """Raises `error`, and on the other hosts another, so that none waits for one that has refused to go on.

    Called by all hosts at the same point, with None where there is nothing to refuse.
    """
    refused = sum_over_hosts(strategy, np.array([error is not None], np.float64))[0]
    if error is not None:
        raise error
    if refused:
        raise UserError("another host has refused to go on; what it printed says why")


def sum_over_hosts(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """The sum of what each host gives, float64; called by all hosts at the same point."""
    if host(strategy)[1] == 1:
        return values
    summed = strategy.reduce("SUM", strategy.run(tf.identity, args=(tf.constant(values),)), axis=None).numpy()
    return summed / (strategy.num_replicas_in_sync / host(strategy)[1])  # each of a host's devices has put in the same


def policy_for(precision: str) -> str:
    """The Keras dtype policy for `training.precision`; `auto` takes what the first GPU gains from.

    bfloat16 needs compute capability 8.0 (Ampere), float16 7.0 (Volta); a CPU or an older GPU computes in float32.
    """
    if precision == "auto":
        precision = _fastest_precision()
    return "float32" if precision == "float32" else f"mixed_{precision}"


def _fastest_precision() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "float32"
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
    return "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"


def use_cudnn(settings: TrainingSettings) -> bool | str:
    """`use_cudnn` for Keras's GRU layers. With a GPU True, so that Keras refuses to go on without it, never "auto"."""
    wanted = settings.cudnn and not settings.xla
    return wanted if tf.config.list_physical_devices("GPU") else False


def describe_gru(settings: TrainingSettings) -> str:
    """Which GRU Keras will compute with, and what keeps it from cuDNN's, in words."""
    if not tf.config.list_physical_devices("GPU"):
        return "Keras's loop (no GPU, so no cuDNN)" if not settings.xla else "unrolled, compiled by XLA (no GPU)"
    if settings.xla:
        return "unrolled, compiled by XLA; no cuDNN, because of training.xla: true"
    if not settings.cudnn:
        return "Keras's loop; no cuDNN, because of training.cudnn: false"
    return "cuDNN"


def describe_devices(strategy: tf.distribute.Strategy | None = None) -> str:
    """The devices that training runs on, in words."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        here = "GPU: " + ", ".join(names)
    else:
        here = f"CPU ({tf.config.threading.get_intra_op_parallelism_threads() or 'all'} threads)"
        if os.path.exists("/dev/nvidia0"):
            here += "; TensorFlow doesn't see this machine's NVIDIA GPU: pip install 'tensorflow[and-cuda]'"
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return here
    number, hosts = host(strategy)
    return f"{strategy.num_replicas_in_sync} devices on {hosts} host(s); on this one, number {number}: {here}"


def set_variables(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    """Fills variables, on every device that holds a copy."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
