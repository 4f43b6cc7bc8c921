"""The model card: what a recogniser is, how good, and within which limits; beside the artefacts it is about."""

from export.material import Facts
from export.proof import Proof

_ROW = "| {} |"


def model_card(facts: Facts, proofs: list[Proof]) -> str:
    """MODEL_CARD.md (Mitchell et al. 2019, arXiv:1810.03993, in what applies)."""
    sections = (_head(facts), _data(facts), _figures(facts, proofs), _front_end(facts), _limits(facts), _usage(proofs))
    return "\n\n".join(sections) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(_ROW.format(" | ".join(map(str, line))) for line in lines)


def _head(facts: Facts) -> str:
    model = facts.config["model"]
    encoder = f"{model['layers']} x {'bidirectional ' if model['bidirectional'] else ''}GRU-{model['units']}"
    if model["convolution_filters"]:
        encoder = f"{model['convolution_layers']} convolutions of {model['convolution_filters']} filters, {encoder}"
    words = ", ".join(facts.labels)
    return (
        f"# Model card: {facts.run}\n\n"
        f"A recogniser of spoken commands, trained with speech_gru. It tells apart: {words}.\n\n"
        f"{encoder}, {model['pooling']} pooling; {facts.parameters:,} parameters, "
        f"{facts.multiply_adds:,} multiply-adds a clip."
    )


def _data(facts: Facts) -> str:
    corpus, settings = facts.config["corpus"], facts.config["export"]
    splits = [split for split in ("train", "validation", "test") if split in facts.counts]
    rows = [(label, *(facts.counts[split].get(label, 0) for split in splits)) for label in facts.labels]
    rows.append(("all", *(sum(facts.counts[split].values()) for split in splits)))
    name = settings["data"] or corpus["path"].rstrip("/").rpartition("/")[2]
    licence = settings["data_licence"] or "not stated in the config (export.data_licence)"
    return (
        f"## Data\n\nCorpus: {name}. Licence: {licence}.\n\nClips by split, no speaker in two of them where "
        f"speakers are known:\n\n{_table(('label', *splits), rows)}"
    )


def _figures(facts: Facts, proofs: list[Proof]) -> str:
    clips = sum(facts.counts[facts.split].values())
    rows = []
    for proof in proofs:
        if proof.status == "not made":
            rows.append((proof.file, "not made: " + proof.reason, "", "", "", ""))
            continue
        if proof.status == "failed":
            rows.append((proof.file, "failed: " + proof.reason, "", "", "", ""))
            continue
        low, high = proof.accuracy_interval
        rows.append(
            (
                proof.file,
                f"{proof.accuracy:.2%} ({low:.2%} to {high:.2%})",
                f"{proof.equal_decisions} of {proof.clips}",
                f"{proof.largest_difference:.1e}",
                f"{proof.bytes / 1e3:,.0f}",
                f"{proof.latency_ms:.3f} a {proof.latency_of}",
            )
        )
    head = ("artefact", "accuracy (95 % interval)", "decisions as the model", "largest logit difference", "KB", "ms")
    labels = facts.metrics.get(facts.split, {}).get("labels", {})
    words = [
        (label, *(f"{values[key]:.1%}" for key in ("precision", "recall", "f1")), values["clips"])
        for label, values in labels.items()
    ]
    by_word = (
        f"\n\nBy label, the model:\n\n{_table(('label', 'precision', 'recall', 'F1', 'clips'), words)}" if words else ""
    )
    return (
        f"## Figures\n\nOn the {clips} clips of the {facts.split} split; the trained model gets {facts.correct} right "
        f"({facts.correct / clips:.2%}). Each artefact was loaded back and run on all of them; times are medians "
        f"on one thread of the machine that exported.\n\n{_table(head, rows)}{by_word}"
    )


def _front_end(facts: Facts) -> str:
    settings, corpus = facts.config["front_end"], facts.config["corpus"]
    names = (
        "kind",
        "window_ms",
        "hop_ms",
        "fft_size",
        "mel_bins",
        "coefficients",
        "low_hz",
        "high_hz",
        "deltas",
        "normalize",
    )
    rows = [(name, settings[name]) for name in names if settings[name] is not None]
    return (
        "## Front end\n\nInside every file but the one for microcontrollers: audio goes in, float32 in [-1, 1], "
        f"{corpus['sample_rate']} Hz, one channel, clips of {corpus['clip_seconds']:g} s. Features are librosa's "
        "(center=False, Slaney mel), in decibels, with mean and deviation of the training clips taken out where "
        f"`normalize` says so.\n\n{_table(('setting', 'value'), rows)}"
    )


def _limits(facts: Facts) -> str:
    augment, threshold = facts.config["augment"], facts.config["export"]["threshold"]
    low, high = augment["snr_db"]
    noise = f"noise at {low:g} to {high:g} dB" if augment["noise_probability"] else "no added noise"
    unknown = "is told to be `_unknown_`" if "_unknown_" in facts.labels else "is taken for one of its words"
    unsure = f" A word with a probability below {threshold:g} is reported as `_unknown_`." if threshold else ""
    return (
        f"## Operating limits\n\nTrained with {noise}; what is louder was not heard in training. Speech of other words "
        f"{unknown}, not always rightly: the figures above hold for voices, rooms and microphones like the corpus's."
        f"{unsure} "
        "Nothing was measured by age, sex or accent of the speakers. Not for use where a missed or a wrong word "
        "does harm."
    )


def _usage(proofs: list[Proof]) -> str:
    proven = [proof.file for proof in proofs if proof.status == "proven"]
    files = [file for file in proven if file.endswith(".tflite")] or ["model.tflite"]
    verb = "listen" if files[0].startswith("stream") else "recognize"
    return (
        "## How to run it\n\n"
        f"```\nspeech-gru {verb} {files[0]} some.wav\nspeech-gru inspect {files[0]}\n```\n\n"
        "From Python, with NumPy and LiteRT alone: `speech_gru.Recognizer(file).recognize(samples)` for clips, "
        "`speech_gru.StreamingRecognizer(file).detect(samples)` for audio that goes on. Inputs and outputs of "
        "the files are named; export/tflite.py and export/saved_model.py list them."
    )
