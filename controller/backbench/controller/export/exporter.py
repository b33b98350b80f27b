"""From what is asked for to the files of an artifact: the model, its manifest and its reference outputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbench.controller.export.calibration import CalibrationSet
from backbench.controller.export.conversion_worker import ConversionJob
from backbench.controller.export.manifest import SideFiles, manifest_of
from backbench.controller.export.process import Note, convert_in_child, export_with_torch
from backbench.controller.export.request import ExportRequest, Precision, Target
from backbench.controller.export.scratch import scratch_folder
from backbench.domain.errors import InvalidArgument
from backbench.domain.preprocess import IMAGENET_DEFAULT
from backbench.models import catalog
from backbench.models.onnx_file import read_model
from backbench.models.onnx_input import inspect_input
from backbench.models.reference import read_reference
from backbench.models.whole_file import written_whole


@dataclass(frozen=True, slots=True)
class Conversion:
    """In which precision, for which target, and with which images it is calibrated (None: the shipped photographs)."""

    precision: Precision = "fp32"
    target: Target = "cpu"
    calibration: CalibrationSet | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of an artifact, its manifest as a document, and how long torch's exporter took, if it was at work."""

    files: SideFiles
    manifest: dict[str, Any]
    export_s: float | None = None


def export(request: ExportRequest, conversion: Conversion, destination: Path, note: Note) -> Exported:
    """Export a backbone with torch to `destination`, with its manifest and reference outputs beside it.

    Every file is complete when it appears, and an error leaves none. Raises what `export_with_torch` and `convert` do.
    """
    if request.dynamic and conversion.precision != "fp32":
        raise InvalidArgument(f"{conversion.precision} is made for one size and batch; leave --dynamic away")
    check_destination(destination)
    architecture = request.name.partition(".")[0]
    if architecture in catalog.names() and request.height and request.width:
        catalog.recipe(architecture).check_size(request.height, request.width)
    with scratch_folder() as folder:
        made = export_with_torch(request, folder, note)
        verification = made.facts["verification"]
        if conversion.precision == "fp32":
            done = _placed(made.model, made.reference, destination, verification, None)
        else:
            _, _, height, width = inspect_input(made.model).dims
            size = (request.batch, int(height), int(width))
            done = _converted(made.model, size, folder, conversion, destination, verification, note)
        return replace(done, export_s=made.facts["export_s"])


def convert_file(
    source: Path, batch: int, height: int, width: int, conversion: Conversion, destination: Path, note: Note
) -> Exported:
    """Convert an fp32 model or a skeleton, fixed to one size, in the same way. Needs no torch."""
    check_destination(destination)
    with scratch_folder() as folder:
        return _converted(source, (batch, height, width), folder, conversion, destination, None, note)


def check_destination(destination: Path) -> None:
    """Raise InvalidArgument unless a file can be written there."""
    if destination.is_dir():
        raise InvalidArgument(f"{destination} is a folder; give the path of the .onnx file to write")
    if destination.suffix != ".onnx":
        raise InvalidArgument(f"{destination}: the file to write must end in .onnx")
    if not destination.parent.is_dir():
        raise InvalidArgument(f"{destination}: there is no folder {destination.parent}; create it first")


def _converted(
    source: Path,
    size: tuple[int, int, int],
    folder: Path,
    conversion: Conversion,
    destination: Path,
    verification: Mapping[str, Any] | None,
    note: Note,
) -> Exported:
    if conversion.precision == "fp32":
        raise InvalidArgument("the model is fp32 already; ask for fp16 or int8")
    images = conversion.calibration
    job = ConversionJob(
        str(source.absolute()),
        *size,
        preprocess=inspect_input(source).preprocess or IMAGENET_DEFAULT,
        precision=conversion.precision,
        target=conversion.target,
        calibration=None if images is None else _named(images),
    )
    inside = folder / "conversion"
    inside.mkdir()
    done = convert_in_child(job, inside, note, f"convert to {conversion.precision}")
    return _placed(done.model, done.reference, destination, verification, done.facts["report"])


def _named(images: CalibrationSet) -> dict[str, Any]:
    """The set as JSON takes it."""
    parts = {part: [str(path.absolute()) for path in getattr(images, part)] for part in ("calibration", "held_out")}
    return {**parts, "found_count": images.found_count, "source": images.source}


def _placed(
    model_path: Path,
    reference: Path,
    destination: Path,
    verification: Mapping[str, Any] | None,
    precision: Mapping[str, Any] | None,
) -> Exported:
    """Put the files into their place, the manifest last; where one cannot be written, none is left."""
    read_reference(reference)
    model, data, outputs = read_model(model_path), model_path.read_bytes(), reference.read_bytes()
    contract = inspect_input(model_path)
    manifest = manifest_of(
        model,
        data,
        destination.name,
        contract.preprocess or IMAGENET_DEFAULT,
        verification,
        precision,
        hashlib.sha256(outputs).hexdigest(),
    )
    files = SideFiles(destination)
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    contents = ((files.manifest, text.encode()), (destination, data), (files.reference, outputs))
    fresh = [path for path, _ in contents if not path.exists()]
    try:
        with contextlib.ExitStack() as opened:  # each file gets its name at the end, the manifest's last
            for path, content in contents:
                opened.enter_context(written_whole(path)).write(content)
    except BaseException:
        for path in fresh:
            path.unlink(missing_ok=True)
        raise
    return Exported(files, manifest)
