"""One YAML file = one experiment, read into typed, validated settings."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from data_pipeline.errors import UserError
from data_pipeline.labels import UNKNOWN
from data_pipeline.settings import (
    AugmentSettings,
    ComposeSettings,
    CorpusSettings,
    FrontEndSettings,
    Settings,
    Share,
    UserPath,
    Word,
)

SHIPPED = Path(__file__).resolve().parents[1] / "configs"
"""The experiments that come with the package; `train demo` finds configs/demo.yaml from anywhere."""


class ModelSettings(Settings):
    """Features -> logits: optional convolutions, a stack of GRU layers, pooling over time, a dense layer."""

    head: Literal["classification", "ctc"] = "classification"
    """One label a clip, or a sequence of tokens (`corpus.tokens`, or words that `compose` makes phrases of)."""
    units: Annotated[int, Field(ge=1, le=4096)] = 128
    """State size of each GRU, in each direction."""
    layers: Annotated[int, Field(ge=1, le=16)] = 2
    bidirectional: bool = True
    """Both directions need the whole clip; a model that streams has one."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Before each GRU layer but the first, and before the head."""
    stem_filters: Annotated[tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(max_length=16)] = ()
    """Channels of the convolutions over time and frequency (log_mel) before those over time alone: a voice that is a
    little higher looks alike to them. The first sees 5 frames and bands, the others 3; the first two halve the bands,
    and the frames while `subsampling` allows it; later ones of equally many channels add to what they are given."""
    convolution_filters: Annotated[int, Field(ge=0, le=4096)] = 0
    """Channels of the convolutions over time before the first GRU; 0: none."""
    convolution_layers: Annotated[int, Field(ge=1, le=16)] = 1
    """Each after the first adds to what it is given (a residual connection). After a stem the first one sees no more
    frames than its stride."""
    convolution_kernel: Annotated[int, Field(ge=1, le=99)] = 5
    """Frames; only past ones if the model isn't bidirectional. Of no effect on the stem and the first one after it."""
    subsampling: Annotated[int, Field(ge=1, le=8)] = 1
    """One encoder step for so many frames: the convolutions' strides, or frames stacked if there are none."""
    pooling: Literal["attention", "mean", "last"] = "attention"
    """How the steps become one vector; of no effect on ctc, which has logits at each step."""

    @model_validator(mode="after")
    def _check(self):
        if self.stem_filters and not self.convolution_filters:
            raise ValueError("stem_filters needs convolution_filters, the channels that its bands become")
        if self.convolution_filters and self.convolution_kernel < self.subsampling and not self.stem_filters:
            raise ValueError(
                f"convolution_kernel ({self.convolution_kernel}) must be at least subsampling ({self.subsampling}), "
                "or frames are never looked at"
            )
        return self


class TrainingSettings(Settings):
    """How the weights are found."""

    initial: UserPath | None = None
    """A finished run with the same front end and encoder, whose encoder's weights are where this one's begin."""
    teachers: tuple[UserPath, ...] = ()
    """Finished runs with the same labels and front end, whose mean probabilities are learned beside the labels."""
    distillation: Share = 0.7
    """The teachers' share in what a clip shall be called; the label has the rest. Without teachers of no effect."""
    consistency: Annotated[float, Field(ge=0)] = 0.0
    """With a CTC head, above 0: each phrase is heard twice in a step, augmented differently, and so much weight is on
    hearing both alike (0.2 is usual). A step takes about twice as long. The training loss has this part too."""
    epochs: Annotated[int, Field(ge=1)] = 40
    min_epoch_steps: Annotated[int, Field(ge=1)] = 1
    """An epoch has at least so many steps: it goes through few clips more than once."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """The peak, after the warm-up; a cosine takes it to zero from there."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled, for adamw; of no effect on the others."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Upper bound of the gradients' global norm."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    """Momentum of the weights' moving average, which is what is evaluated and kept. Null: the weights themselves."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    class_balance: Share = 0.0
    """0 weighs all clips alike, 1 all labels alike; between: clips of a label weigh (its count) ** -class_balance."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many epochs without a better validation accuracy. Null: never."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """auto: mixed precision on a GPU that gains from it, float32 elsewhere."""
    cudnn: bool = True
    """On a GPU, cuDNN's GRU. False: Keras's loop, many times slower there. A CPU has no cuDNN."""
    xla: bool = False
    """Compile the step with XLA, with the GRUs unrolled; rules out cuDNN. docs/performance.md tells where it helps."""
    deterministic: bool = False
    """On a GPU: slower operators that give the same bits in each run. A CPU's always do."""
    checkpoint_steps: Annotated[int, Field(ge=1)] = 200
    """The run's whole state is saved every so many steps, and at each epoch's end."""
    validation_batch_size: Annotated[int, Field(ge=1)] = 256

    @model_validator(mode="after")
    def _check(self):
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})")
        return self


class TensorBoardSettings(Settings):
    """What a run shows in TensorBoard. What costs time or space is off unless asked for."""

    scalar_steps: Annotated[int, Field(ge=1)] = 50
    """Loss, gradient norm and learning rate every so many steps; the rest of the curves once an epoch."""
    image_epochs: Annotated[int, Field(ge=0)] = 10
    """Confusion matrix and recall by word every so many epochs (0: never), and after the last."""
    augmented_clips: Annotated[int, Field(ge=0)] = 4
    """So many training clips' features are drawn before and after augmentation."""
    worst_clips: Annotated[int, Field(ge=0)] = 8
    """So many of the worst validation and test errors can be listened to."""
    pr_curves: bool = True
    """Precision over recall for each label."""
    graph: bool = False
    """The model's graph."""
    embeddings: Annotated[int, Field(ge=0)] = 0
    """So many validation clips' pooled encoder outputs in the projector, with word and speaker."""
    profile_steps: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """The first and the last step of a profiler trace; see it with `pip install tensorboard-plugin-profile`."""

    @model_validator(mode="after")
    def _check(self):
        if self.profile_steps and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError(f"profile_steps: expected the first step, then the last, got {list(self.profile_steps)}")
        return self


class AccuracyLoss(Settings):
    """So many points of accuracy on the clips of the proof an artefact may lose, by number format."""

    float16: Annotated[float, Field(ge=0)] = 0.1
    dynamic_range: Annotated[float, Field(ge=0)] = 0.3
    int8: Annotated[float, Field(ge=0)] = 0.3
    int16x8: Annotated[float, Field(ge=0)] = 0.1


class ExportSettings(Settings):
    """What artefacts must hold, and what they say about themselves."""

    logits_tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest difference of a logit from the model's, in float32."""
    accuracy_loss: AccuracyLoss = AccuracyLoss()
    threshold: Share = 0.0
    """A word that is recognised with less probability becomes `_unknown_`."""
    thresholds: dict[Word, Share] = Field(default_factory=dict)
    """Thresholds of single words, in the place of `threshold`: for those that other speech is often taken for. 0: none;
    a stream then reports the word from 0.7 on."""
    window_seconds: Annotated[float, Field(gt=0, le=60)] = 6.0
    """With a CTC head: so much audio a file for clips takes at once; longer audio is cut into windows that overlap."""
    decoding: Literal["greedy", "beam", "words"] = "greedy"
    """With a CTC head, how a file is decoded unless somebody asks otherwise; words: those of the training texts."""
    data: str = ""
    """What the model card calls the corpus; empty: its folder's name."""
    data_licence: str = ""
    """The corpus's licence, for the model card."""

    def word_thresholds(self, labels: Sequence[str]) -> dict[str, float]:
        """The threshold of each word among a classifier's labels that has one.

        Raises:
            UserError: `thresholds` has a word that isn't among them, or nothing is `_unknown_` to them.
        """
        words = [label for label in labels if not label.startswith("_")]
        if strangers := sorted(set(self.thresholds) - set(words)):
            raise UserError(
                f"export.thresholds has {strangers[0]!r}, which is none of the run's words; it knows: "
                f"{', '.join(words)}. Leave that one out, or all with --set export.thresholds={{}}"
            )
        thresholds = dict.fromkeys(words, self.threshold) | self.thresholds
        thresholds = {word: threshold for word, threshold in thresholds.items() if threshold}
        if thresholds and UNKNOWN not in labels:
            raise UserError(
                f"export.threshold and export.thresholds make unsure words {UNKNOWN}, a label that this run doesn't "
                f"have; it knows: {', '.join(labels)}. Pass --set export.threshold=0 --set export.thresholds={{}}, or "
                "train with corpus.unknown_share above 0"
            )
        return thresholds


class SweepRange(Settings):
    """Where a random sweep draws a setting from."""

    low: float
    high: float
    log: bool = False
    """Evenly over the logarithm: for rates and the like."""
    integer: bool = False
    """Whole numbers alone, `high` included."""

    @model_validator(mode="after")
    def _check(self):
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"integer: expected whole numbers, got low {self.low:g} and high {self.high:g}")
        if self.log and (self.low <= 0 or self.integer):
            raise ValueError("log: expected low above 0, and no integer")
        return self


_SweepValues = Annotated[
    Annotated[list[Any], Tag("list")] | Annotated[SweepRange, Tag("range")],
    Discriminator(lambda values: "range" if isinstance(values, (dict, SweepRange)) else "list"),
]


class SweepSettings(Settings):
    """Which experiments `sweep` runs: each a training with some settings of its own."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """So many are drawn at random; null: the whole grid, for which each setting has a list of values."""
    settings: dict[str, _SweepValues]
    """Key such as model.units -> a list of values, or, to draw from, {low: , high: , log: , integer: }."""

    @model_validator(mode="after")
    def _check(self):
        ranges = [key for key, values in self.settings.items() if isinstance(values, SweepRange)]
        if self.trials is None and ranges:
            raise ValueError(
                f"a grid needs lists of values; {', '.join(ranges)} has a range. Set trials to draw from it"
            )
        empty = [key for key, values in self.settings.items() if values == []]
        if empty or not self.settings:
            raise ValueError(
                f"expected settings with one value or more{', got none for ' if empty else ''}{''.join(empty)}"
            )
        return self


class Config(Settings):
    """An experiment."""

    name: str
    """The file's name without its suffix, unless given; the run directory is named so."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    corpus: CorpusSettings
    front_end: FrontEndSettings = FrontEndSettings()
    augment: AugmentSettings = AugmentSettings()
    compose: ComposeSettings | None = None
    """Phrases of single words' clips; null: the clips as they are."""
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    tensorboard: TensorBoardSettings = TensorBoardSettings()
    export: ExportSettings = ExportSettings()
    sweep: SweepSettings | None = None
    """For `speech-gru sweep` alone; `train` pays no heed to it."""

    @model_validator(mode="after")
    def _check(self):
        self._check_stem()
        self._check_streams()
        if self.corpus.other_speech and not self.augment.fresh_unknown:
            raise ValueError(
                "corpus.other_speech is what augment.fresh_unknown cuts; set that to true, or leave it out"
            )
        self._check_phrases()
        if self.training.teachers and self.training.xla:
            raise ValueError("training.xla compiles the model alone; it can't be had with training.teachers")
        return self

    def _check_stem(self) -> None:
        if not self.model.stem_filters:
            return
        if self.front_end.kind != "log_mel" or self.front_end.deltas:
            raise ValueError(
                "model.stem_filters look along frequency; they need front_end.kind: log_mel and no front_end.deltas"
            )
        # Where halving leaves one band, TensorFlow's convolution (oneDNN's) gets that of one channel wrong.
        if self.front_end.mel_bins < 8:
            raise ValueError(f"model.stem_filters need front_end.mel_bins of 8 or more, got {self.front_end.mel_bins}")

    def _check_streams(self) -> None:
        if self.augment.stream_clips == 1:
            return
        if self.model.bidirectional:
            raise ValueError("augment.stream_clips: streams need model.bidirectional: false")
        if self.training.xla:
            raise ValueError("training.xla needs steps of one length; it can't be had with augment.stream_clips")
        if self.training.batch_size % self.augment.stream_clips:
            raise ValueError(
                f"training.batch_size ({self.training.batch_size}) must be a multiple of augment.stream_clips "
                f"({self.augment.stream_clips})"
            )

    def _check_phrases(self) -> None:
        has_phrases = self.corpus.tokens is not None or self.compose is not None
        if (self.model.head == "ctc") != has_phrases:
            raise ValueError("model.head: ctc and phrases (corpus.tokens, or a section compose) need each other")
        if self.corpus.tokens and self.compose:
            raise ValueError("compose makes phrases of a corpus of words; it can't be had with corpus.tokens")
        if self.augment.pause_ms[1] and not self.corpus.tokens:
            raise ValueError(
                "augment.pause_ms is for recorded phrases (corpus.tokens); compose.gap_ms is for composed ones"
            )
        if not has_phrases:
            if self.training.consistency:
                raise ValueError("training.consistency is for phrases; it needs model.head: ctc")
            return
        refused = {
            "augment.mixup": self.augment.mixup,
            "augment.stream_clips": self.augment.stream_clips > 1,
            "augment.fresh_unknown": self.augment.fresh_unknown,
            "training.class_balance": self.training.class_balance,
            "training.teachers": self.training.teachers,
            "training.xla": self.training.xla,
            "front_end.deltas": self.front_end.deltas,
        }
        if given := [key for key, value in refused.items() if value]:
            raise ValueError(f"{', '.join(given)}: not for phrases (model.head: ctc); leave it out")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name):
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise ValueError(f"expected a folder's name, without / or \\, got {name!r}")
        return name


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> Config:
    """Reads an experiment.

    Args:
        path: a YAML file, or the name of a shipped experiment.
        overrides: settings such as `model.units=96`, values in YAML.

    Raises:
        UserError: naming the file, the key, what was expected, what came and the nearest valid name.
    """
    file, overrides = _find(path), tuple(overrides)
    values = _parse(file)
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate({"name": file.stem, **values})
    except ValidationError as error:
        raise UserError("\n".join(_explain(fault, file, overrides) for fault in error.errors())) from error


def dump_config(config: Config) -> str:
    """The YAML of an experiment with every value spelled out; `load_config` reads it back."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def differences(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """Key -> (value before, value now) of the settings that change a training; what it shows doesn't count."""
    old, new = (_flatten(config.model_dump(mode="json", exclude=_OF_NO_EFFECT)) for config in (before, now))
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


_OF_NO_EFFECT = {
    "name": True,
    "tensorboard": True,
    "sweep": True,
    "export": True,
    "corpus": {"path", "shards"},  # what lies there counts, and is compared by its digest
    "training": {"checkpoint_steps", "validation_batch_size"},
}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _find(path: str | os.PathLike) -> Path:
    given, shipped = Path(path), SHIPPED / f"{path}.yaml"
    if os.path.isfile(given):  # Path.is_file raises on names that are too long
        return given
    if shipped.parent == SHIPPED and os.path.isfile(shipped):
        return shipped
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
    raise UserError(f"{path}: expected a YAML file or the name of a shipped experiment ({names})")


class _Loader(yaml.SafeLoader):
    """YAML 1.2 with decimal numbers, and no more: `yes`, `off` and `2024-01-01` are words, 1e-3 is a number.

    Tags, which name objects, and anchors, which a few lines can multiply into gigabytes, are refused.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base class's table is filled by class methods, below

    def compose_node(self, parent, index):
        event = self.peek_event()
        if event.anchor or getattr(event, "tag", None):
            refused = "tags (!...), anchors (&...) and aliases (*...) are not accepted"
            raise yaml.composer.ComposerError(None, None, refused, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                doubled = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, doubled, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for more than a word; writes no anchors."""

    def ignore_aliases(self, data):
        return True


for _kind, _pattern, _first_characters in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})$", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$", list("-+.")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _first_characters)


def _parse(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        hint = "; indent with spaces, not tabs" if "\\t" in str(error) else ""
        raise UserError(f"{file}{line}: not readable as YAML: {getattr(error, 'problem', error)}{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: can't be read: {error}") from error
    except RecursionError as error:
        raise UserError(f"{file}: not readable as YAML: nested too deeply") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected sections such as corpus: and model:, got {_shown(values)}")
    return {key: value for key, value in values.items() if value is not None}  # a section without lines is null


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not all((*sections, name)):
        raise UserError(f"--set {override}: expected SECTION.KEY=VALUE, such as model.units=96")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
    try:
        values[name] = yaml.load(value, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"--set {override}: the value isn't readable as YAML") from error


def _explain(fault: dict[str, Any], file: Path, overrides: Iterable[str]) -> str:
    """One line for one fault: file or option, key, what was expected, what came, the nearest valid name."""
    *sections, name = (str(part) for part in fault["loc"] or ("",))
    key = ".".join((*sections, name))
    where = next((f"--set {override}" for override in overrides if _concerns(override, key)), str(file))
    where = f"{where}: {key}" if key else where
    if fault["type"] == "extra_forbidden":
        return f"{where}: no such setting; {_valid_names(sections, name)}"
    if fault["type"] == "missing":
        return f"{where}: expected, but missing"
    if fault["type"] == "value_error":
        return f"{where}: {fault['msg'].removeprefix('Value error, ')}"
    if fault["type"] == "model_type":
        return f"{where}: expected a section (lines of KEY: VALUE below it), got {_shown(fault['input'])}"
    expected = fault["msg"].replace("Input should be", "expected").replace("a valid tuple", "a list")
    near = difflib.get_close_matches(str(fault["input"]), re.findall(r"'(\w+)'", expected), 1)
    hint = f"; the nearest valid name is {near[0]}" if near and fault["type"] == "literal_error" else ""
    hint = "; put it in quotes" if fault["type"] == "string_type" else hint
    return f"{where}: {expected}, got {_shown(fault['input'])}{hint}"


def _concerns(override: str, key: str) -> bool:
    """Whether the fault at `key` came with `override`."""
    given = override.partition("=")[0].strip()
    return f"{key}.".startswith(f"{given}.") or (bool(key) and f"{given}.".startswith(f"{key}."))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _valid_names(sections: Iterable[str], name: str) -> str:
    """What to write instead of `name`."""
    elsewhere = [
        f"{section}.{name}"
        for section, field in Config.model_fields.items()
        if name in getattr(_settings_class(field.annotation), "model_fields", ())
    ]
    model: type[BaseModel] = Config
    for section in sections:
        field = model.model_fields.get(section)  # none for a key of `sweep.settings`
        model = _settings_class(field.annotation) if field else model
    near = elsewhere or difflib.get_close_matches(name, model.model_fields, 1)
    return f"the nearest valid name is {near[0]}" if near else f"expected one of: {', '.join(model.model_fields)}"


def _settings_class(annotation: Any) -> type[BaseModel] | None:
    """The class in a section's annotation, also within `| None` or the values of a dict."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_settings_class, get_args(annotation))), None)
