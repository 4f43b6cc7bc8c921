"""The page in a headless Chromium, worked by a page around it: page.html, which reports to this test's server."""

import http.server
import io
import json
import re
import shutil
import subprocess
import threading
from functools import partial

import numpy as np
import pytest
import soundfile

from speech_gru.recognizer import Recognizer

OFFLINE = re.compile("EAI_AGAIN|ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH")
PITCH = 250
"""Of the tone that the microphone hears, in Hz: the tiny corpus's "tief"."""


def tool(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs {names[0]}, which isn't installed")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and keeps what is posted."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.report = json.loads(body)
        self.send_response(204)
        self.end_headers()
        self.server.reported.set()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def report(examples, model, sharp_model, unfit, clips, tmp_path_factory) -> dict:
    """What the page showed: for "files" and "sharp" by the clip's name; for "microphone"; for unfit models."""
    npm, chromium = tool("npm"), tool("chromium", "chromium-browser", "google-chrome")
    folder = tmp_path_factory.mktemp("browser")
    for name in ("index.html", "recognizer.js", "package.json"):
        shutil.copy(examples / "browser" / name, folder)
    installed = subprocess.run(
        [npm, "install", "--prefer-offline", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    if installed.returncode and OFFLINE.search(installed.stderr):
        pytest.skip("needs a package index for npm, which can't be reached")
    assert installed.returncode == 0, installed.stderr

    shutil.copy(model, folder / "model.tflite")
    for file in (sharp_model, *unfit, *clips, examples.parent / "tests" / "examples" / "page.html"):
        shutil.copy(file, folder)
    for file in (sharp_model, *unfit, *clips, examples.parent / "tests" / "examples" / "page.html"):
        shutil.copy(file, folder)
    content = model.read_bytes()
    (folder / "damaged.tflite").write_bytes(content[: len(content) // 2] + b"x" + content[len(content) // 2 + 1 :])
    names = {"clips": [clip.name for clip in clips], "unfit": [path.name for path in unfit]}
    (folder / "names.json").write_text(json.dumps(names))
    spoken = folder / "spoken.wav"
    soundfile.write(spoken, 0.5 * np.sin(2 * np.pi * PITCH * np.arange(40000) / 8000), 8000, subtype="PCM_16")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    server.reported = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    browser = subprocess.Popen(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
            "--autoplay-policy=no-user-gesture-required",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={spoken}",
            f"http://127.0.0.1:{server.server_port}/page.html",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.reported.wait(60), "the page reported nothing within a minute"
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
        server.server_close()
        thread.join()
    assert "error" not in server.report, server.report
    return server.report


def test_probabilities_of_files_are_those_of_python(report, clips, expected, sharp_expected):
    for clip in clips:
        for model, right in (("files", expected), ("sharp", sharp_expected)):
            shown = report[model][clip.name]
            ranking = dict(shown["ranking"])
            assert ranking == pytest.approx(dict(right[clip.name].ranking), abs=1e-3), (model, clip.name)
            assert list(ranking.values()) == sorted(ranking.values(), reverse=True)
            assert shown["status"] == f"Heard: {right[clip.name].label}"
        np.testing.assert_allclose(heard(shown)[0], soundfile.read(clip)[0], atol=1e-4)


def test_probabilities_at_the_microphone_are_those_of_python(report, model):
    shown = report["microphone"]
    samples, rate = heard(shown)
    assert (rate, len(samples)) == (8000, 8000)
    pitch = np.argmax(np.abs(np.fft.rfft(samples * np.hanning(8000), 80000))) / 10
    assert pitch == pytest.approx(PITCH, abs=1), "samples are missing, or the rate is another"
    right = Recognizer(model).recognize(samples)
    assert dict(shown["ranking"]) == pytest.approx(dict(right.ranking), abs=1e-3)
    assert shown["ranking"][0][0] == "tief"
    assert shown["status"] == f"Heard: {right.label}"


def test_unfit_models_are_refused(report, unfit):
    for path, words in unfit.items():
        assert report[path.name]["status"].startswith("That failed: ")
        assert words in report[path.name]["status"]


def heard(shown: dict) -> tuple[np.ndarray, int]:
    """The samples in the page's player."""
    return soundfile.read(io.BytesIO(bytes(shown["heard"])), dtype="float32")
