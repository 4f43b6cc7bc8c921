"""`evaluate` with a CTC head: a run and its files, on its own phrases, on others, and on composed ones."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from data_pipeline.prepare import prepare
from speech_gru.artefact import Artefact
from speech_gru.config import Config, load_config

RATE, WINDOW = 8000, 32000
TONES = {"ja": 300, "nein": 900, "höre": 2300}
"""Hz."""
# All phrases fit into a window: where they don't, a file's rows are near the run's, but not the same.


def phrase(words: list[str], rng: np.random.Generator) -> np.ndarray:
    """Tones of 0.2 s with pauses around them."""
    parts = [np.zeros(int(rng.uniform(0.05, 0.15) * RATE))]
    for word in words:
        tone = 0.4 * np.sin(2 * np.pi * TONES[word] * np.arange(RATE // 5) / RATE)
        parts += [tone, np.zeros(int(rng.uniform(0.05, 0.15) * RATE))]
    return np.concatenate(parts) + rng.normal(0, 0.005, sum(map(len, parts)))


def write_corpus(root, splits: dict[str, int], extra: str = "") -> None:
    """phrases.csv and its recordings."""
    rng = np.random.default_rng(0)
    root.mkdir()
    with (root / "phrases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "text", "speaker", "split"))
        for split, count in splits.items():
            for number in range(count):
                words = [str(word) for word in rng.choice(list(TONES), 1 + number % 3)]
                soundfile.write(root / f"{split}{number}.wav", phrase(words, rng), RATE, subtype="PCM_16")
                writer.writerow((f"{split}{number}.wav", " ".join(words) + extra, f"{split}{number}", split))


def train_run(config: Config, folder) -> None:
    from speech_gru.training import plan_training, train

    prepare(config.corpus)
    train(config, plan_training(config), folder, report=lambda line: None)


def write_files(folder) -> None:
    """The run's model.tflite and stream.tflite, in its export/."""
    from export.encoder import read_encoder
    from export.front_end import convert_front_end, front_end_state
    from export.number_format import FORMATS
    from export.reference import Ranges
    from export.tflite import write_clip, write_stream
    from speech_gru.phrase_training import token_kind
    from speech_gru.run import load_run

    run = load_run(folder)
    state, form, step = front_end_state(run.front_end), FORMATS["float32"], run.config.model.subsampling
    frame, hop = run.front_end.fft_size, run.front_end.hop
    model = run.recognizer.get_layer("encoder_and_head")
    encoder = read_encoder(model, run.config.model, run.front_end.frame_count(WINDOW))
    sizes = {"frame_samples": frame, "hop_samples": hop, "step_samples": hop * step}
    about = Artefact(run.labels, RATE, WINDOW, head="ctc", tokens=token_kind(run.config), **sizes)
    (folder / "export").mkdir()
    content = write_clip(encoder, convert_front_end(state, WINDOW), form, Ranges(), about)
    (folder / "export" / "model.tflite").write_bytes(content)
    about = replace(about, kind="stream", chunk_samples=hop * step, overlap_samples=frame - hop)
    content = write_stream(encoder, convert_front_end(state, frame - hop + hop * step), form, Ranges(), about)
    (folder / "export" / "stream.tflite").write_bytes(content)


def phrase_config(front_end, **corpus) -> dict:
    return {
        **{"name": "tones", "seed": 1, "front_end": front_end},
        "corpus": {"sample_rate": RATE, "silence_share": 0, **corpus},
        "augment": {"speed": None, "noise_probability": 0, "time_mask_frames": 1, "frequency_mask_bins": 1},
        "model": {"head": "ctc", "units": 8, "layers": 1, "subsampling": 2, "dropout": 0, "bidirectional": False},
        "training": {"epochs": 12, "batch_size": 8, "learning_rate": 0.03, "ema": 0.6, "precision": "float32"},
    }


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    """A run on recorded phrases of words, and its files."""
    root = tmp_path_factory.mktemp("evaluate_phrases")
    write_corpus(root / "corpus", {"train": 40, "validation": 6, "test": 9})
    corpus = {"path": root / "corpus" / "phrases.csv", "shards": root / "shards", "tokens": "words"}
    train_run(Config(**phrase_config(tiny_config.front_end, **corpus, clip_seconds=2)), root / "run")
    write_files(root / "run")
    return root / "run"


@pytest.fixture
def measured(speech_gru):
    """The figures of a command that must succeed."""

    def measure(*arguments):
        outcome = speech_gru("evaluate", *arguments, "--json")
        assert outcome.code == 0, outcome.err
        (line,) = outcome.out.splitlines()
        return json.loads(line)

    return measure


def everywhere(run, measured, tmp_path, *arguments) -> dict:
    """The figures, if the run and its files for clips and streams have the same."""
    names = ("", "export/model.tflite", "export/stream.tflite")
    found = [measured(run / name, *arguments, "--out", tmp_path / str(number)) for number, name in enumerate(names)]
    tables = [(tmp_path / str(number) / "transcripts.csv").read_text(encoding="utf-8") for number in range(3)]
    assert found[0] == found[1] == found[2]
    assert len(set(tables)) == 1
    assert json.loads((tmp_path / "0" / "metrics.json").read_text(encoding="utf-8")) == found[0]
    return found[0]


@pytest.mark.parametrize("decoding", [[], ["--decoding", "greedy"], ["--decoding", "beam"], ["--decoding", "words"]])
def test_run_and_files_have_the_same_figures(run, measured, tmp_path, decoding):
    found = everywhere(run, measured, tmp_path, *decoding)
    assert found["phrases"] == 9
    assert found["words"]["said"] == 18
    assert found["word_error_rate"] < 0.5


def test_a_split_and_where_the_report_lies(run, measured, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    assert measured(tmp_path / "run", "--split", "validation")["phrases"] == 6
    assert measured(tmp_path / "run" / "export" / "model.tflite", "--decoding", "beam")["phrases"] == 9
    files = {"metrics.json", "transcripts.csv", "worst.csv"}
    for folder in ("report/validation", "export/report/test-beam"):
        assert {path.name for path in (tmp_path / "run" / folder).iterdir()} == files


def test_a_csv(run, measured, speech_gru, tmp_path):
    write_corpus(tmp_path / "mine", {"train": 2, "test": 2})
    corpus = ("--corpus", tmp_path / "mine" / "phrases.csv")
    assert everywhere(run, measured, tmp_path, *corpus)["phrases"] == 4, "whatever split they are in"
    write_corpus(tmp_path / "other", {"test": 2}, extra=" doch")
    outcome = speech_gru("evaluate", run, "--corpus", tmp_path / "other" / "phrases.csv", "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "note: the recogniser doesn't have these words: 'doch' (2)" in outcome.err
    assert "corpus-phrases: word error rate " in outcome.out
    assert f"{tmp_path / 'out'}: metrics.json, transcripts.csv, worst.csv" in outcome.out


def test_shards(run, measured, speech_gru, tiny_shards, tmp_path):
    shards = run.parent / "shards"
    file = shutil.copy(run / "export" / "model.tflite", tmp_path / "model.tflite")
    assert measured(file, "--shards", shards) == measured(run, "--out", tmp_path / "out")
    outcome = speech_gru("evaluate", file)
    assert (outcome.code, outcome.out) == (2, "")
    assert "is no run directory; give --shards or --corpus" in outcome.err
    for model in (file, run):
        outcome = speech_gru("evaluate", model, "--shards", tiny_shards)
        assert (outcome.code, outcome.out) == (2, "")
        assert f"{tiny_shards} holds single words; expected phrases, prepared with corpus.tokens" in outcome.err


@pytest.mark.parametrize("name", ["", "export/model.tflite", "export/stream.tflite"])
@pytest.mark.parametrize("options", [["--noise", "x"], ["--keep-state"]])
def test_what_is_for_single_words(run, speech_gru, name, options):
    outcome = speech_gru("evaluate", run / name, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{options[0]}: for models of single words; {run / name} has a CTC head" in outcome.err


def test_decoding_is_for_phrases(tiny_run, speech_gru):
    outcome = speech_gru("evaluate", tiny_run, "--decoding", "beam")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"--decoding: for models with a CTC head; {tiny_run} is for single words" in outcome.err


def test_composed_phrases(tiny_config, tmp_path, measured, tiny_shards):
    """Of the words of tiny_shards' test clips, the same ones for the run and its files."""
    values = phrase_config(tiny_config.front_end) | {
        "corpus": tiny_config.corpus.model_dump(),
        "compose": {"phrases": 64, "validation_phrases": 12, "words": [0, 3], "unknown_probability": 0},
    }
    values["training"] |= {"epochs": 1, "warmup_epochs": 0}
    train_run(Config(**values), tmp_path / "run")
    write_files(tmp_path / "run")
    found = everywhere(tmp_path / "run", measured, tmp_path)
    assert found["phrases"] == 12
    assert everywhere(tmp_path / "run", measured, tmp_path, "--shards", tiny_shards) == found
    assert "tief" in (tmp_path / "0" / "transcripts.csv").read_text(encoding="utf-8")
    assert everywhere(tmp_path / "run", measured, tmp_path, "--decoding", "words")["phrases"] == 12


def test_words_of_the_training_texts(run, measured, tmp_path):
    """Where tokens are characters, a run takes them from its shards."""
    from speech_gru.phrase_training import known_words
    from speech_gru.run import load_run
    from speech_gru.subject import load_phrase_subject

    config = load_config(run / "config.yaml")
    root = tmp_path / "characters"
    values = phrase_config(config.front_end, path=config.corpus.path, shards=root / "shards", tokens="characters")
    values["corpus"] |= {"clip_seconds": 2}
    values["training"] |= {"epochs": 1, "warmup_epochs": 0}
    train_run(Config(**values), root / "run")
    subject = load_phrase_subject(root / "run", "words")
    assert subject.decoder.kind == "characters"
    trained = load_run(root / "run")
    assert known_words(trained.config, trained.labels) == ("höre", "ja", "nein")
    table = root / "run" / "report" / "test-words" / "transcripts.csv"
    assert measured(root / "run", "--decoding", "words")["phrases"] == 9
    with table.open(encoding="utf-8", newline="") as file:
        heard = {word for row in csv.DictReader(file) for word in row["recognised"].split()}
    assert heard <= {"höre", "ja", "nein"}
