"""The shortest recogniser on a device, with NumPy, soundfile and LiteRT: python device.py model.tflite clip.wav ..."""

import sys

from data_pipeline.errors import UserError
from speech_gru.recognizer import Recognizer

if len(sys.argv) < 3:
    sys.exit(__doc__)
model, *files = sys.argv[1:]
try:
    recognizer = Recognizer(model)
except UserError as error:
    sys.exit(str(error))
for file in files:
    try:
        heard = recognizer.recognize(recognizer.load(file))
    except UserError as error:
        sys.exit(f"{file}: {error}")
    print(f"{file}: {heard.label} {heard.probability:.3f}")
