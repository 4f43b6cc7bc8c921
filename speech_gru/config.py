"""One YAML file = one experiment, read into typed, validated settings."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from data_pipeline.errors import UserError
from data_pipeline.settings import AugmentSettings, CorpusSettings, FrontEndSettings, Settings, Share

SHIPPED = Path(__file__).resolve().parents[1] / "configs"
"""The experiments that come with the package; `train demo` finds configs/demo.yaml from anywhere."""


class ModelSettings(Settings):
    """Features -> logits: an optional convolution, a stack of GRU layers, pooling over time, a dense layer."""

    units: Annotated[int, Field(ge=1, le=4096)] = 128
    """State size of each GRU, in each direction."""
    layers: Annotated[int, Field(ge=1, le=16)] = 2
    bidirectional: bool = True
    """Both directions need the whole clip; a model that streams has one."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Before each GRU layer but the first, and before the head."""
    convolution_filters: Annotated[int, Field(ge=0, le=4096)] = 0
    """A convolution over time before the first GRU; 0: none."""
    convolution_kernel: Annotated[int, Field(ge=1, le=99)] = 5
    """Frames; only past ones if the model isn't bidirectional."""
    subsampling: Annotated[int, Field(ge=1, le=8)] = 1
    """One encoder step for so many frames: the convolution's stride, or frames stacked if there is none."""
    pooling: Literal["attention", "mean", "last"] = "attention"
    """How the steps become one vector."""


class TrainingSettings(Settings):
    """How the weights are found."""

    epochs: Annotated[int, Field(ge=1)] = 40
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
    validation_batch_size: Annotated[int, Field(ge=1)] = 256

    @model_validator(mode="after")
    def _check(self):
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})")
        return self


class Config(Settings):
    """An experiment."""

    name: str
    """The file's name without its suffix, unless given; the run directory is named so."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    corpus: CorpusSettings
    front_end: FrontEndSettings = FrontEndSettings()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> Config:
    """Reads an experiment.

    Args:
        path: a YAML file, or the name of a shipped experiment.
        overrides: settings such as `model.units=96`, values in YAML.

    Raises:
        UserError: naming the file, the key, what was expected, what came and the nearest valid name.
    """
    file = _find(path)
    values = _parse(file)
    for override in overrides:
        _override(values, override)
    try:
        return Config(**{"name": file.stem, **values})
    except ValidationError as error:
        raise UserError("\n".join(_explain(fault, file) for fault in error.errors())) from error


def dump_config(config: Config) -> str:
    """The YAML of an experiment with every value spelled out; `load_config` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _find(path: str | os.PathLike) -> Path:
    given, shipped = Path(path), SHIPPED / f"{path}.yaml"
    if given.is_file():
        return given
    if shipped.parent == SHIPPED and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
    raise UserError(f"{path}: expected a YAML file or the name of a shipped experiment ({names}); neither exists")


class _Loader(yaml.SafeLoader):
    """Safe YAML as its version 1.2 reads it: `yes`, `no`, `on` and `off` are words, not booleans; 1e-3 is a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class's own table, less two entries
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = [key for key in keys if keys.count(key) > 1]
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {doubled[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false|True|False"), list("tfTF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    list("-+0123456789."),
)


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
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected sections such as corpus: and model:, got {type(values).__name__}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: expected SECTION.KEY=VALUE, such as model.units=96")
    *sections, name = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
    try:
        values[name] = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value isn't readable as YAML") from error


def _explain(fault: dict[str, Any], file: Path) -> str:
    """One line for one fault: file, key, what was expected, what came, the nearest valid name."""
    *sections, name = (str(part) for part in fault["loc"]) if fault["loc"] else ("",)
    key = ".".join((*sections, name))
    if fault["type"] == "extra_forbidden":
        names = _section_fields(sections)
        near = difflib.get_close_matches(name, names, 1, cutoff=0.5)
        known = f"the nearest valid name is {near[0]}" if near else f"expected one of: {', '.join(names)}"
        return f"{file}: {key}: no such setting; {known}"
    if fault["type"] == "missing":
        return f"{file}: {key}: expected, but missing"
    expected = fault["msg"].replace("Value error, ", "").replace("Input should be", "expected")
    came = "" if fault["type"] == "value_error" else f"; got {fault['input']!r}"
    near = difflib.get_close_matches(str(fault["input"]), re.findall(r"'(\w+)'", expected), 1)
    hint = f"; the nearest valid name is {near[0]}" if near and fault["type"] == "literal_error" else ""
    return f"{file}: {key}: {expected}{came}{hint}" if key else f"{file}: {expected}"


def _section_fields(sections: Iterable[str]) -> list[str]:
    model: type[BaseModel] = Config
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)
