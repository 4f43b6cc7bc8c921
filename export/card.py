"""The model card: what a recogniser is, how good, and within which limits; beside the artefacts it is about."""

from export.material import Facts
from export.proof import Proof


def model_card(facts: Facts, proofs: list[Proof]) -> str:
    """MODEL_CARD.md (Mitchell et al. 2019, arXiv:1810.03993, in what applies)."""
    sections = (
        _head(facts),
        _data(facts),
        _figures(facts, proofs),
        _front_end(facts),
        _limits(facts),
        _usage(facts, proofs),
    )
    return "\n\n".join(sections) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value) -> str:
    """A bar would end the cell."""
    return str(value).replace("|", "\\|")


def _head(facts: Facts) -> str:
    model = facts.config["model"]
    encoder = f"{model['layers']} x {'bidirectional ' if model['bidirectional'] else ''}GRU-{model['units']}"
    if model["convolution_filters"]:
        encoder = f"{_convolutions(model['convolution_layers'])} of {model['convolution_filters']} filters, {encoder}"
    if stem := model["stem_filters"]:
        filters = "/".join(map(str, stem))
        encoder = f"{_convolutions(len(stem))} over time and frequency of {filters} filters, {encoder}"
    outputs, is_ctc = ", ".join(facts.labels), model["head"] == "ctc"
    what, of = ("phrases", "Its tokens") if is_ctc else ("commands", "It tells apart")
    end = "a CTC head" if is_ctc else f"{model['pooling']} pooling"
    return (
        f"# Model card: {facts.run}\n\n"
        f"A recogniser of spoken {what}, trained with speech_gru. {of}: {outputs.removeprefix(', ')}.\n\n"
        f"{encoder}, {end}; {facts.parameters:,} parameters, "
        f"{facts.multiply_adds:,} multiply-adds {_unit(facts)}."
    )


def _convolutions(count: int) -> str:
    return f"{count} convolution{'s' if count > 1 else ''}"


def _unit(facts: Facts) -> str:
    """What multiply-adds are counted for."""
    seconds = facts.config["export"]["window_seconds"]
    return f"for {seconds:g} s" if facts.config["model"]["head"] == "ctc" else "a clip"


def _data(facts: Facts) -> str:
    corpus, settings = facts.config["corpus"], facts.config["export"]
    name = settings["data"] or corpus["path"].rstrip("/").rpartition("/")[2]
    licence = settings["data_licence"] or "not stated in the config (export.data_licence)"
    return f"## Data\n\nCorpus: {name}. Licence: {licence}.\n\n{_counts(facts)}"


def _counts(facts: Facts) -> str:
    if not facts.counts:
        return "The clips that the model was trained with weren't there any more to be counted."
    splits = [split for split in ("train", "validation", "test") if split in facts.counts]
    labels = dict.fromkeys(label for split in splits for label in facts.counts[split])
    labels = facts.labels if set(labels) <= set(facts.labels) else tuple(labels)  # phrases' outputs are tokens
    rows = [(label, *(facts.counts[split].get(label, 0) for split in splits)) for label in labels]
    rows.append(("all", *(sum(facts.counts[split].values()) for split in splits)))
    return f"Clips by split, no speaker in two of them where speakers are known:\n\n{_table(('label', *splits), rows)}"


def _figures(facts: Facts, proofs: list[Proof]) -> str:
    whose = f" of other prepared clips than the model's own ({facts.shards})" if facts.shards else ""
    seconds = facts.config["export"]["window_seconds"]
    unit = f"words in phrases of at most {seconds:g} s" if facts.config["model"]["head"] == "ctc" else "clips"
    right = f"{facts.correct} right ({facts.correct / facts.clips:.2%})"
    if facts.correct_with_thresholds is not None:
        share = facts.correct_with_thresholds / facts.clips
        right += f", {facts.correct_with_thresholds} with the files' thresholds ({share:.2%})"
    return (
        f"## Figures\n\nOn the {facts.clips} {unit} of the {facts.split} split{whose}; the trained model gets {right}. "
        "Each artefact was loaded back and run on all of them; times are medians on one thread of the machine that "
        f"exported.\n\n{_artefacts(proofs)}{_by_label(facts)}"
    )


def _artefacts(proofs: list[Proof]) -> str:
    with_thresholds = any(proof.correct_with_thresholds is not None for proof in proofs)
    accuracy = ("accuracy without thresholds", "with thresholds") if with_thresholds else ("accuracy",)
    head = ("artefact", *(f"{name} (95 % interval)" for name in accuracy))
    head += ("decisions as the model", "largest logit difference", "KB", "ms")
    rows = [_row(proof, with_thresholds) for proof in proofs]
    return _table(head, [row + ("",) * (len(head) - len(row)) for row in rows])


def _row(proof: Proof, with_thresholds: bool) -> tuple:
    if proof.status != "proven":
        return proof.file, f"{proof.status}: {proof.reason}"
    accuracy = [_share(proof.accuracy, proof.accuracy_interval)]
    if with_thresholds:
        known = proof.correct_with_thresholds is not None
        accuracy.append(
            _share(proof.accuracy_with_thresholds, proof.interval_with_thresholds) if known else "it has none"
        )
    return (
        proof.file,
        *accuracy,
        f"{proof.equal_decisions} of {proof.decisions}",
        f"{proof.largest_difference:.1e}",
        f"{proof.bytes / 1e3:,.0f}",
        f"{proof.latency_ms:.3f} a {proof.latency_of}",
    )


def _share(accuracy: float, interval: tuple[float, float]) -> str:
    return "{:.2%} ({:.2%} to {:.2%})".format(accuracy, *interval)


def _by_label(facts: Facts) -> str:
    labels = facts.metrics.get(facts.split, {}).get("labels", {})
    if not labels:
        return ""
    rows = [
        (label, *(f"{values[name]:.1%}" for name in ("precision", "recall", "f1")), values["clips"])
        for label, values in labels.items()
    ]
    whose = "on its own clips, " if facts.shards else ""
    return (
        f"\n\nBy label, the model {whose}without thresholds:\n\n"
        f"{_table(('label', 'precision', 'recall', 'F1', 'clips'), rows)}"
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
    unused = {"coefficients"} if settings["kind"] == "log_mel" else set()
    rows = [(name, settings[name]) for name in names if settings[name] is not None and name not in unused]
    return (
        "## Front end\n\nInside every file but the one for microcontrollers: audio goes in, float32 in [-1, 1], "
        f"{corpus['sample_rate']} Hz, one channel, {_length(facts)}. Features are librosa's "
        "(center=False, Slaney mel), in decibels, with mean and deviation of the training clips taken out where "
        f"`normalize` says so.\n\n{_table(('setting', 'value'), rows)}"
    )


def _length(facts: Facts) -> str:
    """How much audio goes in at once."""
    if facts.config["model"]["head"] == "ctc":
        return f"at most {facts.config['export']['window_seconds']:g} s at once"
    return f"clips of {facts.config['corpus']['clip_seconds']:g} s"


def _limits(facts: Facts) -> str:
    unknown = "is told to be `_unknown_`" if "_unknown_" in facts.labels else "is taken for one of its words"
    if facts.config["corpus"]["tokens"] in ("characters", "phonemes"):
        unknown = "is written as it sounds"
    unsure = ""
    if facts.thresholds:
        unsure = f" A word with a probability below {_thresholds(facts)} is reported as `_unknown_`."
    return (
        f"## Operating limits\n\nTrained with {_noise(facts)}; what is louder was not heard in training. "
        f"Speech of other words {unknown}, not always rightly: the figures above hold for voices, rooms and "
        f"microphones like the corpus's.{unsure} Nothing was measured by age, sex or accent of the speakers. Not for "
        "use where a missed or a wrong word does harm."
    )


def _thresholds(facts: Facts) -> str:
    words = [label for label in facts.labels if not label.startswith("_")]
    values = {facts.thresholds.get(word) for word in words}
    if len(values) == 1:
        return f"{values.pop():g}"
    of_words = ", ".join(f"{word} {value:g}" for word, value in facts.thresholds.items())
    return f"its own threshold ({of_words})"


def _noise(facts: Facts) -> str:
    augment = facts.config["augment"]
    has_noise = augment["generated_noise"] or facts.noise
    if not augment["noise_probability"] or has_noise is False:  # with nothing to add the settings are of no effect
        return "no added noise"
    low, high = augment["snr_db"]
    return f"noise at {low:g} to {high:g} dB{'' if has_noise else ', if the corpus had any'}"


def _usage(facts: Facts, proofs: list[Proof]) -> str:
    proven = [proof.file for proof in proofs if proof.status == "proven"]
    files = [file for file in proven if file.endswith(".tflite")] or ["model.tflite"]
    verb = "listen" if _is_streaming(files[0]) else "recognize"
    if facts.config["model"]["head"] == "ctc":
        classes = (
            "`speech_gru.PhraseRecognizer(file)`: `transcribe(samples)`, `words(samples)` with times, "
            "`find(samples, phrases)`, and `stream()` for audio that goes on"
        )
    else:
        classes = "`speech_gru.StreamingRecognizer(file).detect(samples)` for audio that goes on"
        if not all(map(_is_streaming, files)):
            classes = f"`speech_gru.Recognizer(file).recognize(samples)` for clips, {classes}"
    return (
        "## How to run it\n\n"
        f"```\nspeech-gru {verb} {files[0]} some.wav\nspeech-gru inspect {files[0]}\n```\n\n"
        f"From Python, with NumPy and LiteRT alone: {classes}. Inputs and outputs of "
        "the files are named; export/tflite.py and export/saved_model.py list them."
    )


def _is_streaming(file: str) -> bool:
    return file.startswith("stream")
