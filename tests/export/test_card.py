"""What a model card must tell."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from export.card import model_card
from export.proof import Proof

PROOFS = [
    Proof(
        "float32", "model.tflite", "proven", "", 1234567, 200, 1.5e-6, 199, 200, 190, 0.95, (0.91, 0.97), 3.25, "clip"
    ),
    Proof("int8", "model_int8.tflite", "failed", "its logits aren't finite", 5, 200),
    Proof("onnx", "model.onnx", "not made", "tf2onnx isn't installed"),
]


CTC = {
    "corpus": {"path": "data/an4", "shards": "s", "tokens": "characters"},
    "model": {"head": "ctc", "units": 96, "bidirectional": False},
    "export": {"window_seconds": 4},
}


def sections(card: str) -> dict[str, str]:
    """Heading -> text."""
    parts = [part.partition("\n") for part in ("\n" + card).split("\n## ")]
    return {heading.strip(): text for heading, _, text in parts}


def rows(text: str) -> list[list[str]]:
    """The cells of the tables' lines."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_sections(make_facts):
    card = model_card(make_facts(), PROOFS)
    assert list(sections(card))[1:] == ["Data", "Figures", "Front end", "Operating limits", "How to run it"]
    assert card.startswith("# Model card: mine\n")
    assert card.endswith(".\n")


def test_the_model(make_facts):
    head = model_card(make_facts(), PROOFS).partition("## Data")[0]
    assert "ja, nein, _unknown_" in head
    assert "2 x bidirectional GRU-128, attention pooling" in head
    assert "123,456 parameters, 7,654,321 multiply-adds" in head
    settings = {"convolution_filters": 64, "convolution_layers": 2, "bidirectional": False, "units": 96}
    head = model_card(make_facts({"model": settings}), PROOFS).partition("## Data")[0]
    assert "2 convolutions of 64 filters, 2 x GRU-96" in head
    one = "1 convolution over time and frequency of 8 filters, 1 convolution of 64 filters, 2 x GRU-96"
    three = "3 convolutions over time and frequency of 8/12/12 filters, 2 convolutions of 64 filters, 2 x GRU-96"
    for filters, layers, said in (([8], 1, one), ([8, 12, 12], 2, three)):
        changed = settings | {"stem_filters": filters, "convolution_layers": layers}
        head = model_card(make_facts({"model": changed, "front_end": {"kind": "log_mel"}}), PROOFS)
        assert said in head


def test_data_and_licence(make_facts):
    export = {"data": "Speech Commands", "data_licence": "CC BY 4.0"}
    text = sections(model_card(make_facts({"export": export}), PROOFS))["Data"]
    assert "Corpus: Speech Commands. Licence: CC BY 4.0." in text
    assert rows(text) == [
        ["label", "train", "test"],
        ["---", "---", "---"],
        ["ja", "300", "100"],
        ["nein", "0", "0"],
        ["_unknown_", "300", "100"],
        ["all", "600", "200"],
    ]


def test_data_that_the_config_does_not_name(make_facts):
    text = sections(model_card(make_facts(), PROOFS))["Data"]
    assert "Corpus: my words. Licence: not stated in the config (export.data_licence)." in text


def test_figures(make_facts):
    text = sections(model_card(make_facts(), PROOFS))["Figures"]
    assert "the 200 clips of the test split; the trained model gets 190 right (95.00%)" in text
    _, _, proven, failed, missing = rows(text)
    figures = ["model.tflite", "95.00% (91.00% to 97.00%)", "199 of 200", "1.5e-06", "1,235", "3.250 a clip"]
    assert proven == figures
    assert failed == ["model_int8.tflite", "failed: its logits aren't finite", "", "", "", ""]
    assert missing == ["model.onnx", "not made: tf2onnx isn't installed", "", "", "", ""]


def test_figures_with_thresholds(make_facts):
    proven = replace(
        PROOFS[0],
        correct_with_thresholds=180,
        accuracy_with_thresholds=0.9,
        interval_with_thresholds=(0.85, 0.93),
    )
    without = replace(PROOFS[0], file="saved_model")
    facts = make_facts(thresholds={"ja": 0.5}, correct_with_thresholds=181)
    text = sections(model_card(facts, [proven, without, PROOFS[1]]))["Figures"]
    assert "gets 190 right (95.00%), 181 with the files' thresholds (90.50%)" in text
    head, _, first, second, failed = rows(text)
    assert head[1:3] == ["accuracy without thresholds (95 % interval)", "with thresholds (95 % interval)"]
    assert first[1:3] == ["95.00% (91.00% to 97.00%)", "90.00% (85.00% to 93.00%)"]
    assert second[1:3] == ["95.00% (91.00% to 97.00%)", "it has none"]
    assert len(failed) == len(head)


def test_other_clips_than_the_runs(make_facts):
    values = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "clips": 40}
    facts = make_facts(shards="others", clips=30, correct=15, metrics={"test": {"labels": {"ja": values}}})
    found = sections(model_card(facts, PROOFS))
    assert "On the 30 clips of the test split of other prepared clips than the model's own (others)" in found["Figures"]
    assert "By label, the model on its own clips" in found["Figures"]
    assert rows(found["Data"])[-1] == ["all", "600", "200"]


def test_the_runs_clips_are_gone(make_facts):
    found = sections(model_card(make_facts(counts={}, shards="others"), PROOFS))
    assert "weren't there any more to be counted" in found["Data"]
    assert not rows(found["Data"])


def test_a_bar_in_a_label_stays_within_its_cell(make_facts):
    values = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "clips": 40}
    facts = make_facts(labels=("a|b", "ja", "_unknown_"), metrics={"test": {"labels": {"a|b": values}}})
    found = sections(model_card(facts, PROOFS))
    assert "| a\\|b | 0 | 0 |" in found["Data"]
    assert "| a\\|b | 50.0% |" in found["Figures"]


def test_figures_by_label(make_facts):
    values = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "clips": 40}
    facts = make_facts(metrics={"test": {"labels": {"ja": values}}, "validation": {"labels": {"no": values}}})
    text = sections(model_card(facts, PROOFS))["Figures"]
    assert rows(text)[-1] == ["ja", "50.0%", "25.0%", "33.3%", "40"]
    assert "By label" not in model_card(make_facts(), PROOFS)


def test_front_end(make_facts):
    facts = make_facts({"front_end": {"kind": "log_mel", "mel_bins": 33, "deltas": 1}})
    text = sections(model_card(facts, PROOFS))["Front end"]
    assert "float32 in [-1, 1], 16000 Hz, one channel, clips of 1 s" in text
    found = dict(rows(text)[2:])
    assert (found["kind"], found["mel_bins"], found["deltas"], found["hop_ms"]) == ("log_mel", "33", "1", "20.0")
    assert not {"high_hz", "coefficients"} & found.keys()
    found = dict(rows(sections(model_card(make_facts(), PROOFS))["Front end"])[2:])
    assert found["coefficients"] == "40"


@pytest.mark.parametrize(
    ("config", "changed", "words"),
    [
        ({"augment": {"snr_db": (3, 18)}}, {}, "Trained with noise at 3 to 18 dB"),
        ({"augment": {"noise_probability": 0}}, {}, "Trained with no added noise"),
        ({}, {"noise": False}, "Trained with no added noise"),
        ({"augment": {"generated_noise": True}}, {"noise": False}, "Trained with noise at 0 to 25 dB; what"),
        ({}, {"noise": None}, "Trained with noise at 0 to 25 dB, if the corpus had any"),
        ({}, {}, "is told to be `_unknown_`"),
        ({}, {"labels": ("ja", "nein")}, "is taken for one of its words"),
        (CTC, {"labels": ("", " ", "a")}, "Speech of other words is written as it sounds, not always rightly"),
    ],
)
def test_limits(make_facts, config, changed, words):
    assert words in sections(model_card(make_facts(config, **changed), PROOFS))["Operating limits"]


@pytest.mark.parametrize(
    ("thresholds", "words"),
    [
        ({"ja": 0.7, "nein": 0.7}, " A word with a probability below 0.7 is reported"),
        ({"ja": 0.7, "nein": 0.95}, " below its own threshold (ja 0.7, nein 0.95) is reported as `_unknown_`."),
        ({"ja": 0.7}, " below its own threshold (ja 0.7) is reported"),
    ],
)
def test_thresholds(make_facts, thresholds, words):
    facts = make_facts(labels=("ja", "nein", "_unknown_"), thresholds=thresholds)
    assert words in sections(model_card(facts, PROOFS))["Operating limits"]
    assert "is reported" not in sections(model_card(make_facts(), PROOFS))["Operating limits"]


def test_how_to_run_it(make_facts):
    text = sections(model_card(make_facts(), PROOFS))["How to run it"]
    assert "speech-gru recognize model.tflite some.wav" in text
    assert "speech_gru.Recognizer(file).recognize(samples)" in text


@pytest.mark.parametrize(
    ("files", "verb", "classes"),
    [
        (("model.tflite", "model.onnx"), "recognize model.tflite", {"Recognizer", "StreamingRecognizer"}),
        (("stream_dynamic_range.tflite",), "listen stream_dynamic_range.tflite", {"StreamingRecognizer"}),
        (("model.tflite", "stream.tflite"), "recognize model.tflite", {"Recognizer", "StreamingRecognizer"}),
    ],
)
def test_what_runs_the_files_that_are_there(make_facts, files, verb, classes):
    proofs = [replace(PROOFS[0], file=file) for file in files]
    text = sections(model_card(make_facts(), proofs))["How to run it"]
    assert f"speech-gru {verb} some.wav" in text
    assert set(re.findall(r"speech_gru\.(\w+)\(", text)) == classes


def test_phrases(make_facts):
    counts = {"train": {"_phrase_": 900, "_silence_": 9}, "test": {"_phrase_": 100}}
    facts = make_facts(CTC, labels=("", " ", "a", "b"), counts=counts, metrics={"test": {"word_error_rate": 0.05}})
    found = sections(model_card(facts, PROOFS))
    head = model_card(facts, PROOFS).partition("## Data")[0]
    assert "A recogniser of spoken phrases, trained with speech_gru. Its tokens:  , a, b." in head
    assert "2 x GRU-96, a CTC head; 123,456 parameters, 7,654,321 multiply-adds for 4 s." in head
    assert rows(found["Data"])[2:] == [
        *(["_phrase_", "900", "100"], ["_silence_", "9", "0"]),
        ["all", "909", "100"],
    ]
    assert (
        "On the 200 words in phrases of at most 4 s of the test split; the trained model gets 190" in found["Figures"]
    )
    assert "By label" not in found["Figures"]
    assert "one channel, at most 4 s at once" in found["Front end"]
    assert "`speech_gru.PhraseRecognizer(file)`: `transcribe(samples)`" in found["How to run it"]
    assert "StreamingRecognizer" not in found["How to run it"]


def test_the_methods_of_phrases_are_there(make_facts):
    from speech_gru import PhraseRecognizer

    text = sections(model_card(make_facts(CTC), PROOFS))["How to run it"]
    for name in ("transcribe", "words", "find", "stream"):
        assert f"`{name}(" in text
        assert callable(getattr(PhraseRecognizer, name))


def test_what_it_refers_to_is_there(make_facts):
    import speech_gru
    from speech_gru.streaming import StreamingRecognizer

    card, root = model_card(make_facts(), PROOFS), Path(__file__).parents[2]
    assert {"export/tflite.py", "export/saved_model.py"} <= {word.strip("`,.;") for word in card.split()}
    assert (root / "export" / "tflite.py").is_file()
    assert (root / "export" / "saved_model.py").is_file()
    assert callable(speech_gru.Recognizer.recognize)
    assert callable(StreamingRecognizer.detect)
