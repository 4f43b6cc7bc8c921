"""The trained models that come with the package: each a .tflite file, with its card beside it."""

from pathlib import Path

FOLDER = Path(__file__).parent / "models"
CLIP_MODEL = FOLDER / "clip.tflite"
"""For whole clips; its card is clip.md."""
STREAM_MODEL = FOLDER / "stream.tflite"
"""For audio that goes on; its card is stream.md."""
