"""Which number format a training run computes in."""

import keras


def policy_for(precision: str) -> str:
    """The Keras dtype policy for `training.precision`; `auto` takes what the first GPU gains from.

    bfloat16 needs compute capability 8.0 (Ampere), float16 7.0 (Volta); a CPU or an older GPU computes in float32.
    """
    if precision == "auto":
        precision = _fastest_precision()
    return "float32" if precision == "float32" else f"mixed_{precision}"


def describe_device() -> str:
    """The device that training runs on, in words."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU ({tf.config.threading.get_intra_op_parallelism_threads() or 'all'} threads)"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return "GPU: " + ", ".join(names)


def _fastest_precision() -> str:
    if keras.backend.backend() != "tensorflow":
        return "float32"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "float32"
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
    return "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"
