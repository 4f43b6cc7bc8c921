"""A finished run's figures, gathered from its directory."""

import json
import time
from pathlib import Path
from statistics import median

import numpy as np

from data_pipeline.errors import UserError
from speech_gru.model import multiply_adds
from speech_gru.recognizer import Recognizer
from speech_gru.run import load_run


def summarize_run(folder: Path) -> dict:
    """Keys: splits (the figures of metrics.json), labels, parameters, multiply_adds, tflite, pictures.

    tflite is None before the export, else file, bytes and latency_ms: the median over 50 clips of noise on one thread.

    Raises:
        UserError: no finished run.
    """
    run = load_run(folder)
    metrics, file = folder / "metrics.json", folder / "export" / "model.tflite"
    if not metrics.is_file():
        raise UserError(f"{folder} has no metrics.json: its training hasn't finished")
    model = run.recognizer.get_layer("encoder_and_head")
    return {
        "splits": json.loads(metrics.read_text(encoding="utf-8")),
        "labels": run.labels,
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "tflite": _measure(file) if file.is_file() else None,
        "pictures": [str(path) for path in sorted(folder.glob("report/*/*.png"))],
    }


def _measure(file: Path) -> dict:
    recognizer = Recognizer(file)
    generator, times = np.random.default_rng(0), []
    for _ in range(50):
        clip = generator.normal(scale=0.1, size=recognizer.description.clip_samples).astype(np.float32)
        start = time.perf_counter()
        recognizer.probabilities(clip)
        times.append(1e3 * (time.perf_counter() - start))
    return {"file": str(file), "bytes": file.stat().st_size, "latency_ms": median(times)}
