"""All artefacts of a run: each made and proven in a process of its own, and put in its place once it is proven."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.files import write_text
from export.card import model_card
from export.child import in_child
from export.errors import ExportError, NotMadeError
from export.material import Facts, Material, Subject, gather, start_on_cpu
from export.number_format import FORMATS
from export.onnx import write_onnx
from export.proof import Proof, judge, report
from export.tflite import write_clip, write_step, write_stream
from export.verify import (
    Reading,
    read_clip_file,
    read_micro,
    read_onnx,
    read_phrase_file,
    read_saved_model,
    read_stream_file,
)

REPORT, CARD = "export_report.json", "MODEL_CARD.md"
_ASIDE = ".unproven-"
_OLD_SECONDS = 3600


def _make_clip(format: str, material: Material, path: Path) -> Reading:
    form, description = FORMATS[format], replace(material.description, number_format=format)
    ranges = material.ranges_for(form)
    path.write_bytes(write_clip(material.encoder, material.clip_graph, form, ranges, description))
    if material.samples is not None:
        return read_phrase_file(path, np.load(material.clips, mmap_mode="r"), material.samples)
    return read_clip_file(path, np.load(material.clips, mmap_mode="r"))


def _make_stream(format: str, material: Material, path: Path) -> Reading:
    form, stream = FORMATS[format], material.require_stream()
    description = replace(stream.description, number_format=format)
    ranges = material.ranges_for(form, streams=True)
    path.write_bytes(write_stream(material.encoder, stream.graph, form, ranges, description))
    clips, together = np.load(material.clips, mmap_mode="r"), material.joined_clips()
    if material.samples is not None:
        return read_phrase_file(path, clips, material.samples, together)
    return read_stream_file(path, clips, together)


def _make_micro(material: Material, path: Path) -> Reading:
    from export.micro import write_micro

    form, stream = FORMATS["int8"], material.require_stream()
    description = replace(stream.description, number_format="int8", kind="step")
    ranges = material.ranges_for(form, streams=True)
    write_micro(write_step(material.encoder, form, ranges, description), path)
    return read_micro(path, material)


def _make_saved_model(material: Material, path: Path) -> Reading:
    start_on_cpu(one_thread=True)
    from export.saved_model import write_saved_model

    write_saved_model(material.encoder, material.front_end, material.description.clip_samples, path)
    return read_saved_model(path, material)


def _make_onnx(material: Material, path: Path) -> Reading:
    start_on_cpu()
    write_onnx(material.encoder, material.front_end, material.description.clip_samples, path)
    return read_onnx(path, material)


@dataclass(frozen=True)
class Kind:
    """A kind of artefact."""

    file: str
    """Its name in the folder."""
    make: Callable[[Material, Path], Reading]
    """Writes it to a path and reads it back."""
    number_format: str = "float32"
    streams: bool = False
    way_round: str = "take another artefact"
    """What its user can do if it can't be made."""


KINDS = {
    "saved_model": Kind("saved_model", _make_saved_model, way_round="take model.tflite"),
    "float32": Kind("model.tflite", partial(_make_clip, "float32"), way_round="take saved_model"),
    "float16": Kind("model_float16.tflite", partial(_make_clip, "float16"), "float16"),
    "dynamic_range": Kind("model_dynamic_range.tflite", partial(_make_clip, "dynamic_range"), "dynamic_range"),
    "int8": Kind("model_int8.tflite", partial(_make_clip, "int8"), "int8", way_round="take model_dynamic_range.tflite"),
    "int16x8": Kind("model_int16x8.tflite", partial(_make_clip, "int16x8"), "int16x8"),
    "stream_float32": Kind("stream.tflite", partial(_make_stream, "float32"), streams=True),
    "stream_dynamic_range": Kind(
        "stream_dynamic_range.tflite", partial(_make_stream, "dynamic_range"), "dynamic_range", True
    ),
    "stream_int8": Kind("stream_int8.tflite", partial(_make_stream, "int8"), "int8", True),
    "stream_int16x8": Kind("stream_int16x8.tflite", partial(_make_stream, "int16x8"), "int16x8", True),
    "micro": Kind("micro", _make_micro, "int8", True, "take stream_int8.tflite"),
    "onnx": Kind("model.onnx", _make_onnx, way_round="take saved_model"),
}
"""By the name that `--only` takes."""


def export_run(
    folder: Path,
    out: Path,
    shards: Path | None = None,
    only: Iterable[str] = (),
    overrides: Iterable[str] = (),
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[Proof]:
    """Writes the artefacts of a finished run into `out`, with export_report.json and MODEL_CARD.md.

    An artefact that can't be made or proven leaves that of an earlier export as it was; the others are still made.
    Report and card are written after each, and tell also of what an earlier export of the same weights has left.

    Args:
        shards: clips to prove on; those of the run if None. Their test split is used, or the validation split. What
            integers must hold is measured on the run's own clips in any case.
        only: names in KINDS; empty: all of them.
        overrides: settings of the section export, such as `export.threshold=0.5`, in the place of the run's.
        progress: called with what is made next, and how many are done of how many.

    Raises:
        UserError: no finished run, no clips, an unknown name, or `out` can't be written.
        ExportError: the front end can't be converted, so that there is nothing to make artefacts of.
    """
    names, overrides = _chosen(only), tuple(overrides)
    if wrong := [item for item in overrides if not item.startswith("export.")]:
        raise UserError(f"--set {wrong[0]}: a trained run's settings are fixed, but for those that begin with export.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        with tempfile.TemporaryDirectory(dir=out, prefix=_ASIDE) as aside:
            progress("what they are made of", 0, len(names))
            subject = in_child(gather, folder, shards, overrides, Path(aside))
            proofs, earlier = {}, _earlier(out, subject.facts)
            for done, name in enumerate(names):
                progress(KINDS[name].file, done, len(names))
                proofs[name] = _export(name, subject, Path(aside), out)
                _tell(subject.facts, proofs, earlier, out)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror or error}") from error
    return list(proofs.values())


def _remove_leftovers(out: Path) -> None:
    """What exports that were killed have left; one that runs beside this one is younger."""
    for folder in out.glob(f"{_ASIDE}*"):
        if time.time() - folder.stat().st_mtime > _OLD_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _earlier(out: Path, facts: Facts) -> dict[str, Proof]:
    """By artefact, what earlier exports of the same weights proved on the same clips, of the files still there."""
    about = report(facts, [])
    try:
        found = json.loads((out / REPORT).read_text(encoding="utf-8"))
        proofs = [Proof(**item) for item in found["artefacts"]]
        if any(found[key] != about[key] for key in ("weights", "split", "shards", "clips")):
            return {}
        return {proof.artefact: proof for proof in proofs if proof.status == "proven" and _is_there(proof, out)}
    except (OSError, ValueError, KeyError, TypeError):  # none, damaged, or of another version: nothing is known
        return {}


def _is_there(proof: Proof, out: Path) -> bool:
    path = out / KINDS[proof.artefact].file
    return path.exists() and _digest(path) == proof.sha256


def _tell(facts: Facts, proofs: dict[str, Proof], earlier: dict[str, Proof], out: Path) -> None:
    """Writes report and card, unless nothing was proven: then those that are there still tell the truth.

    A file that was there before and couldn't be made again keeps its row: it is still there.
    """
    if not any(proof.status == "proven" for proof in proofs.values()):
        return
    kept = {name: proof for name, proof in earlier.items() if name not in proofs or proofs[name].status != "proven"}
    rows = [(proofs | kept)[name] for name in KINDS if name in proofs or name in kept]
    write_text(out / REPORT, json.dumps(report(facts, rows), indent=2, ensure_ascii=False) + "\n")
    write_text(out / CARD, model_card(facts, rows))


def _chosen(only: Iterable[str]) -> list[str]:
    unknown = sorted(set(only) - KINDS.keys())
    if unknown:
        raise UserError(f"--only {', '.join(unknown)}: no such artefact; expected of: {', '.join(KINDS)}")
    return [name for name in KINDS if not only or name in only]


def _export(name: str, subject: Subject, aside: Path, out: Path) -> Proof:
    """Makes an artefact aside, judges it, and puts it in its place."""
    kind = KINDS[name]
    path = aside / kind.file
    try:
        if kind.streams:
            subject.material.require_stream()
        subject.material.ranges_for(FORMATS[kind.number_format], kind.streams)
        reading = in_child(kind.make, subject.material, path)
        proof = judge(name, kind.file, reading, subject, kind.number_format)
        proof = replace(proof, bytes=_size(path), sha256=_digest(path))
        if proof.status == "proven":
            _replace(path, out / kind.file)
        return proof
    except NotMadeError as error:
        return Proof(name, kind.file, "not made", str(error))
    except (ExportError, UserError) as error:  # the latter: the runtime refuses the file
        return Proof(name, kind.file, "failed", f"{error}; {kind.way_round}")
    except OSError as error:
        return Proof(name, kind.file, "failed", f"it can't be written: {error.strerror or error}")
    finally:  # half of it may fill the disk on which the others are to be made
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    """Of an artefact, which is a file or a folder."""
    return [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _digest(path: Path) -> str:
    """SHA-256 over an artefact's names and contents."""
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path.parent).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _replace(new: Path, old: Path) -> None:
    """Renames `new` to `old`; a folder that was there is moved to where it will be removed."""
    if old.is_dir():
        old.rename(new.with_suffix(".old"))
    new.replace(old)
