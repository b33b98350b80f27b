"""A model in fp16 or int8 as a file of its own, and a report of what that did to its outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from backbench.controller.export.calibration import CalibrationSet, ImageBatches, shipped_set
from backbench.controller.export.coverage import (
    Coverage,
    Executed,
    executed_operators,
    fp16_coverage,
    int8_coverage,
)
from backbench.controller.export.fidelity import OutputComparison, OutputFidelity
from backbench.controller.export.ort import import_ort, open_session
from backbench.controller.export.quantization import (
    OutOfRange,
    fp16_model,
    int8_model,
    int8_scheme,
    out_of_half_range,
)
from backbench.controller.export.request import Reduced, Target
from backbench.controller.export.scratch import scratch_folder
from backbench.domain.errors import InvalidModel, StoreUnusable
from backbench.domain.preprocess import IMAGENET_DEFAULT, Preprocess
from backbench.models.onnx_file import read_model
from backbench.models.onnx_input import MODEL_KEY, InputContract, inspect_input, model_facts
from backbench.models.whole_file import written_whole

Dims = tuple[int, int, int, int]

RANDOM_NOTE = "random weights: the errors say nothing about accuracy"


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """What a conversion did. `outputs` compares with the fp32 model on the held-out images, on this machine's CPU.

    `calibration_image_count` is None where none was needed, `out_of_range` for int8, `executed` for other targets than
    a CPU. `held_out_independent` is False where a single image served for both. `weights` is where the model's weights
    come from, where it says so.
    """

    precision: Reduced
    target: str
    scheme: str
    weights: str | None
    note: str | None
    image_source: str
    found_image_count: int
    calibration_image_count: int | None
    held_out_image_count: int
    held_out_independent: bool
    preprocess_assumed: bool
    outputs: tuple[OutputFidelity, ...]
    coverage: Coverage
    executed: Executed | None
    out_of_range: OutOfRange | None
    size_bytes: int
    source_size_bytes: int
    runtime: str

    def to_document(self) -> dict[str, Any]:
        """For JSON, schema `backbench.precision/1`."""
        return {
            "schema": "backbench.precision/1",
            "precision": self.precision,
            "target": self.target,
            "scheme": self.scheme,
            "weights": self.weights,
            "note": self.note,
            "images": self.image_source,
            "found_image_count": self.found_image_count,
            "calibration_image_count": self.calibration_image_count,
            "held_out_image_count": self.held_out_image_count,
            "held_out_independent": self.held_out_independent,
            "preprocess_assumed": self.preprocess_assumed,
            "sqnr_mean_removed": self.held_out_image_count > 1,
            "outputs": [output.to_document() for output in self.outputs],
            "mac_operator_count": self.coverage.mac_operator_count,
            "converted_mac_operator_count": self.coverage.converted_count,
            "float_operators": dict(self.coverage.float_operators),
            "float_operator_names": list(self.coverage.float_operator_names),
            "executed": self.executed.to_document() if self.executed else None,
            "out_of_range": self.out_of_range.to_document() if self.out_of_range else None,
            "size_bytes": self.size_bytes,
            "source_size_bytes": self.source_size_bytes,
            "runtime": self.runtime,
        }


def convert(
    source: Path,
    destination: Path,
    precision: Reduced,
    target: Target,
    *,
    inputs: CalibrationSet | None = None,
    preprocess: Preprocess | None = None,
) -> PrecisionReport:
    """Write the fp32 model in `source`, whose size and batch are fixed, in another precision to `destination`.

    Without `inputs` the shipped photographs calibrate and judge; without `preprocess` what the model states holds, or
    else ImageNet's. An fp16 model suits every target. The same arguments give the same bytes, and an error leaves no
    file. Raises InvalidModel for a model that cannot be converted, InvalidArgument without ONNX Runtime.
    """
    runtime = f"onnxruntime {import_ort().__version__}"
    if not destination.parent.is_dir():
        raise StoreUnusable(f"{destination}: there is no folder {destination.parent}; create it first")
    subject = _subject(source, preprocess)
    chosen = inputs or shipped_set()
    reported = "any" if precision == "fp16" else target
    out_of_range = _out_of_range(subject, chosen) if precision == "fp16" else None
    converted, scheme = _converted(subject, precision, target, chosen)
    _restate(converted, subject.facts, precision, reported, _quantization(precision, scheme, chosen, runtime))
    data = converted.SerializeToString(deterministic=True)
    with scratch_folder() as folder:
        outputs, executed = _compare(subject, data, folder, chosen)
    if out_of_range and out_of_range.activation_names:
        outputs = tuple(OutputFidelity(output.name, None, None, None, None) for output in outputs)
    with written_whole(destination) as file:
        file.write(data)
    weights = subject.facts.get("weights")
    return PrecisionReport(
        precision=precision,
        target=reported,
        scheme=scheme,
        weights=weights,
        note=RANDOM_NOTE if str(weights).startswith("random:") else None,
        image_source=chosen.source,
        found_image_count=chosen.found_count,
        calibration_image_count=len(chosen.calibration) if precision == "int8" else None,
        held_out_image_count=len(chosen.held_out),
        held_out_independent=chosen.independent or precision == "fp16",
        preprocess_assumed=preprocess is None and subject.contract.preprocess is None,
        outputs=outputs,
        coverage=fp16_coverage(converted) if precision == "fp16" else int8_coverage(converted),
        executed=executed if reported == "cpu" else None,
        out_of_range=out_of_range,
        size_bytes=len(data),
        source_size_bytes=source.stat().st_size,
        runtime=runtime,
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """The model that is converted."""

    source: Path
    model: onnx.ModelProto
    contract: InputContract
    dims: Dims
    preprocess: Preprocess
    facts: dict[str, Any]

    def batches(self, images: Sequence[Path]) -> ImageBatches:
        return ImageBatches(images, self.contract.name, self.dims, self.preprocess)


def _subject(source: Path, preprocess: Preprocess | None) -> _Subject:
    contract = inspect_input(source)
    model = read_model(source)
    dims = _fixed_dims(source, contract, model)
    used = preprocess or contract.preprocess or IMAGENET_DEFAULT
    return _Subject(source, model, contract, dims, used, model_facts(model, source))


def _converted(
    subject: _Subject, precision: Reduced, target: Target, chosen: CalibrationSet
) -> tuple[onnx.ModelProto, str]:
    try:
        if precision == "fp16":
            return fp16_model(subject.model), "fp16 weights and activations, fp32 inputs and outputs"
        scheme = int8_scheme(subject.model, target)
        return int8_model(subject.model, scheme, subject.batches(chosen.calibration)), scheme.text
    except InvalidModel as error:
        raise InvalidModel(f"{subject.source}: {error.message}") from error


def _out_of_range(subject: _Subject, chosen: CalibrationSet) -> OutOfRange:
    try:
        return out_of_half_range(subject.model, subject.batches(chosen.held_out))
    except InvalidModel as error:
        raise InvalidModel(f"{subject.source}: {error.message}") from error


def _fixed_dims(source: Path, contract: InputContract, model: onnx.ModelProto) -> Dims:
    if contract.skeleton:
        raise InvalidModel(f"{source}: this is a skeleton, which has no weights; materialise it first")
    if contract.dtype != "float":
        raise InvalidModel(f"{source}: its input is {contract.dtype}; convert the fp32 model instead")
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise InvalidModel(f"{source}: the model is quantized already; convert the fp32 model instead")
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise InvalidModel(f"{source}: the model is in fp16 already; convert the fp32 model instead")
    if not all(isinstance(dim, int) for dim in contract.dims):
        taken = "x".join(str(dim) for dim in contract.dims)
        raise InvalidModel(f"{source}: it takes {taken}; fix its size and batch first")
    return cast(Dims, contract.dims)


def _quantization(precision: Reduced, scheme: str, chosen: CalibrationSet, runtime: str) -> dict[str, Any] | None:
    if precision == "fp16":
        return None
    count = len(chosen.calibration)
    return {"scheme": scheme, "images": chosen.source, "calibration_image_count": count, "quantizer": runtime}


def _restate(
    model: onnx.ModelProto,
    facts: dict[str, Any],
    precision: Reduced,
    target: str,
    quantization: dict[str, Any] | None,
) -> None:
    """Let a model that describes itself state its new precision."""
    now = facts | {"precision": precision, "target": target, "quantization": quantization}
    for entry in model.metadata_props:
        if facts and entry.key == MODEL_KEY:
            entry.value = json.dumps(now, separators=(",", ":"))


def _compare(
    subject: _Subject, data: bytes, folder: Path, chosen: CalibrationSet
) -> tuple[tuple[OutputFidelity, ...], Executed]:
    candidate, optimised = folder / "model.onnx", folder / "optimised.onnx"
    candidate.write_bytes(data)
    original, converted = open_session(subject.source), open_session(candidate, optimised=optimised)
    kinds = {output.get("name"): output.get("kind") for output in _described_outputs(subject.facts)}
    image, names = subject.contract.name, [output.name for output in subject.contract.outputs]
    comparisons = [OutputComparison(name, logits=kinds.get(name) == "logits") for name in names]
    for batch, count in subject.batches(chosen.held_out):
        wanted, got = original.run(names, {image: batch}), converted.run(names, {image: batch})
        for comparison, reference, produced in zip(comparisons, wanted, got, strict=True):
            comparison.add(np.atleast_1d(reference)[:count], np.atleast_1d(produced)[:count])
    return tuple(comparison.result() for comparison in comparisons), executed_operators(onnx.load(str(optimised)))


def _described_outputs(facts: dict[str, Any]) -> Iterable[dict[str, Any]]:
    outputs = facts.get("outputs")
    return [output for output in outputs if isinstance(output, dict)] if isinstance(outputs, list) else []
