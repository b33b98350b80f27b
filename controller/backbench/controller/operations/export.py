"""`backbench export` without its words: what was typed, checked, and carried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backbench.controller.export.calibration import CalibrationSet, calibration_set
from backbench.controller.export.exporter import Conversion, Exported, check_destination, export
from backbench.controller.export.images import find_images
from backbench.controller.export.process import Note
from backbench.controller.export.request import (
    DEFAULT_OPSET,
    PRECISIONS,
    PRETRAINED,
    RANDOM,
    TARGETS,
    ExportRequest,
)
from backbench.controller.operations.models import parse_size
from backbench.domain.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class ExportCommand:
    """What was asked for, as it was written."""

    name: str
    size: str | None = None
    batch: int = 1
    weights: str = PRETRAINED
    seed: int = 0
    features: bool = False
    precision: str = "fp32"
    target: str | None = None
    calibration: Path | None = None
    opset: int = DEFAULT_OPSET
    dynamic: tuple[str, ...] = ()
    output: Path | None = None


def export_backbone(command: ExportCommand, note: Note) -> Exported:
    """The files of one artifact. Raises InvalidRequest for the first thing that is wrong, before anything is made."""
    if not 1 <= command.batch <= 1024:
        raise InvalidArgument(f"--batch is {command.batch}; it must be between 1 and 1024")
    conversion = conversion_of(command.precision, command.target, command.calibration)
    height, width = (None, None) if command.size is None else parse_size(command.size)
    request = ExportRequest(
        command.name,
        height,
        width,
        batch=command.batch,
        weights=command.weights,
        seed=command.seed,
        features=command.features,
        dynamic=command.dynamic,
        opset=command.opset,
    )
    destination = command.output or Path(default_name(command))
    check_destination(destination)
    return export(request, conversion, destination, note)


def conversion_of(precision: str, target: str | None, calibration: Path | None) -> Conversion:
    """The conversion that the options name. Raises InvalidArgument for an option that is unknown or of no use."""
    if precision not in PRECISIONS:
        raise InvalidArgument(f'--precision "{precision}" is not known; take one of {", ".join(PRECISIONS)}')
    if target is not None and precision != "int8":
        raise InvalidArgument(f"--for {target} is of no use for {precision}; add --precision int8, or leave it away")
    target = target or "cpu"
    if target not in TARGETS:
        raise InvalidArgument(f'--for "{target}" is not known; take {" or ".join(TARGETS)}')
    images: CalibrationSet | None = None
    if calibration is not None:
        if precision == "fp32":
            raise InvalidArgument("--calibration is of no use for fp32; add --precision int8, or leave it away")
        images = calibration_set(find_images(calibration))
    return Conversion(precision, target, images)


def default_name(command: ExportCommand) -> str:
    """The file that an export goes to when none is named: everything that tells it from others of its kind.

    >>> default_name(ExportCommand("resnet18.a1_in1k", size="448", precision="int8"))
    'resnet18.a1_in1k_448_int8_cpu.onnx'
    """
    parts = [command.name]
    if command.weights != PRETRAINED:
        own = command.weights != RANDOM
        parts.append(Path(command.weights).stem if own else f"random{command.seed or ''}")
    if command.size is not None:
        parts.append(command.size.lower())
    if command.batch != 1:
        parts.append(f"batch{command.batch}")
    if command.opset != DEFAULT_OPSET:
        parts.append(f"opset{command.opset}")
    if command.features:
        parts.append("features")
    if command.precision != "fp32":
        parts.append(command.precision)
        if command.precision == "int8":
            parts.append(command.target or "cpu")
    parts += [f"dynamic-{what}" for what in command.dynamic]
    return "_".join(parts) + ".onnx"
