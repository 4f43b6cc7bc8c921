"""Clips a second from shards to augmented batches of features, beside librosa in a loop on the same clips.

python benchmarks/input_pipeline.py speech_commands_subset
"""

import argparse
import time

import librosa
import numpy as np

from data_pipeline.dataset import evaluation_batches
from speech_gru.config import Config, load_config
from speech_gru.training import adapted_front_end, plan_training, training_data


def clips_per_second(batches, seconds: float) -> float:
    """Draws batches for `seconds`, after a warm-up of as long as the first ten take."""
    iterator = iter(batches)
    for _ in range(10):
        next(iterator)
    clips, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _, labels, *_ = next(iterator)
        clips += len(labels)
    return clips / (time.perf_counter() - start)


def librosa_clips_per_second(config: Config, count: int = 500) -> float:
    """librosa's MFCCs, one clip after the other, without augmentation."""
    corpus, front_end = config.corpus, adapted_front_end(config)
    batches = evaluation_batches(corpus.shards, "train", corpus.clip_samples, count)
    audio = next(batches.as_numpy_iterator())["audio"]
    settings = {
        "sr": corpus.sample_rate,
        "n_mfcc": config.front_end.coefficients,
        "n_mels": config.front_end.mel_bins,
        "n_fft": front_end.fft_size,
        "hop_length": round(config.front_end.hop_ms * corpus.sample_rate / 1000),
        "center": False,
    }
    librosa.feature.mfcc(y=audio[0], **settings)  # compiles
    start = time.perf_counter()
    for clip in audio:
        np.asarray(librosa.feature.mfcc(y=clip, **settings))
    return len(audio) / (time.perf_counter() - start)


def main() -> None:
    """Prints one line a contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    batches = training_data(config, plan_training(config), adapted_front_end(config)).batches()
    print(f"librosa in a loop, no augmentation:       {librosa_clips_per_second(config):8,.0f} clips/s")
    print(f"shards to augmented, batched features:    {clips_per_second(batches, arguments.seconds):8,.0f} clips/s")


if __name__ == "__main__":
    main()
