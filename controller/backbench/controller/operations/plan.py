"""What a profile will do, checked as far as possible before anything is created, sent or started."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbench.controller.client.uploads import Upload
from backbench.controller.export.exporter import Conversion
from backbench.controller.export.images import find_images
from backbench.controller.export.request import DEFAULT_OPSET, LOWEST_OPSET, check_weights
from backbench.controller.export.timm_import import require_export
from backbench.controller.operations.export import conversion_of
from backbench.controller.operations.images import image_upload
from backbench.controller.operations.making import ModelMaker, ModelOrder
from backbench.controller.operations.models import ModelFile, Size, parse_size, resolve_model
from backbench.domain.budget import Budget, parse_budget
from backbench.domain.device import Backend, Device
from backbench.domain.errors import (
    BackendUnavailable,
    InvalidArgument,
    InvalidBudget,
    InvalidRunSpec,
    MessageTooLarge,
    UnknownBackbone,
    UnknownBackend,
)
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import SECOND_NS, BackendSpec, ImageRef, InputSpec, ModelRef, RunSpec, Scenario
from backbench.models import catalog
from backbench.models.reference import read_reference

AS_MODEL = "as-model"
"""Whatever precision the model has."""


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What was asked for, as it was written. `size` None takes each model's own; `inputs` None, synthetic images.

    `weights` None profiles a backbone of the catalogue as a skeleton; otherwise torch exports it first.
    """

    models: tuple[str, ...]
    device: str
    size: str | None = None
    batch: int = 1
    frames: int = 1000
    warmup: int = 20
    inputs: Path | None = None
    budgets: tuple[str, ...] = ()
    backend: str = "onnxruntime"
    threads: int | None = None
    spin: bool = True
    precision: str = AS_MODEL
    weights: str | None = None
    target: str | None = None
    calibration: Path | None = None
    telemetry_rate_hz: float = 2.0
    memory_pass: bool = True
    timeout_s: float = 3600.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request whose parts are all found and sound. A size is None where only timm knows the backbone's own."""

    request: ProfileRequest
    models: tuple[ModelFile | ModelOrder, ...]
    sizes: tuple[Size | None, ...]
    images: tuple[Path, ...]
    budgets: tuple[Budget, ...]
    conversion: Conversion


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A model whose file is there, and the size it is run at."""

    model: ModelFile
    size: Size


def plan_profile(request: ProfileRequest) -> Plan:
    """The plan of a request. Raises InvalidRequest for the first thing that is wrong with it."""
    _check_ranges(request)
    budgets = tuple(parse_budget(text) for text in request.budgets)
    if not request.memory_pass and any(budget.metric == "memory" for budget in budgets):
        raise InvalidBudget("a memory budget needs the memory pass; leave --no-memory-pass or the budget away")
    asked = None if request.size is None else parse_size(request.size)
    conversion = _conversion(request)
    models = tuple(_resolved(text, request.weights) for text in request.models)
    for model in models:
        model.check_batch(request.batch)
        if request.precision == "fp32" and isinstance(model, ModelFile) and model.precision not in ("fp32", None):
            raise InvalidArgument(f"{model.path} is {model.precision} already; leave --precision away")
    sizes = tuple(model.size(asked) for model in models)
    images = () if request.inputs is None else find_images(request.inputs)
    return Plan(request, models, sizes, images, budgets, conversion)


def make_ready(plan: Plan, maker: ModelMaker, opset: int) -> tuple[ReadyModel, ...]:
    """Every model of a plan as a file: exported, converted and given reference outputs where need be.

    `opset` is the newest that the device's backend takes.
    """
    return tuple(_ready(plan, maker, model, size, opset) for model, size in zip(plan.models, plan.sizes, strict=True))


def newest_opset(plan: Plan, device: Device) -> int:
    """The opset to export with for the device's backend."""
    newest = next((backend.max_opset for backend in device.backends if backend.name == plan.request.backend), None)
    return max(min(newest or DEFAULT_OPSET, DEFAULT_OPSET), LOWEST_OPSET)


def _ready(plan: Plan, maker: ModelMaker, model: ModelFile | ModelOrder, size: Size | None, opset: int) -> ReadyModel:
    batch, conversion = plan.request.batch, plan.conversion
    if isinstance(model, ModelOrder):
        made = maker.ordered(model, size, batch, opset, conversion)
        return ReadyModel(made, made.size(size))
    taken = model.size(size)
    model = model.at(taken)
    if conversion.precision != "fp32":
        return ReadyModel(maker.converted(model, taken, batch, conversion), taken)
    if model.contract.skeleton or (model.reference is not None and not _is_for(model.reference, taken)):
        model = maker.with_reference(model, taken)
    return ReadyModel(model, taken)


def _is_for(reference: Path, size: Size) -> bool:
    """Whether reference outputs are those of this size."""
    stated = read_reference(reference)
    return (stated.height, stated.width) == size


def _resolved(text: str, weights: str | None) -> ModelFile | ModelOrder:
    if weights is None:
        try:
            return resolve_model(text)
        except UnknownBackbone as error:
            raise UnknownBackbone(
                f"{error.message}; any other timm name needs --weights random or pretrained"
            ) from error
    if Path(text).is_file():
        raise InvalidArgument(f"{text} has its weights; leave --weights away, or name a backbone")
    if text.endswith(".onnx") or "/" in text:
        return resolve_model(text)  # which says that there is no such file
    check_weights(weights)
    require_export()
    return ModelOrder(text, weights, catalog.recipe(text) if text in catalog.names() else None)


def _conversion(request: ProfileRequest) -> Conversion:
    if request.precision == AS_MODEL:
        if request.target is not None:
            raise InvalidArgument("--for is of no use without --precision int8; add it, or leave it away")
        if request.calibration is not None:
            raise InvalidArgument("--calibration is of no use without --precision int8; add it, or leave it away")
        return Conversion()
    by_backend = "tensorrt" if "tensorrt" in request.backend else None
    target = request.target or (by_backend if request.precision == "int8" else None)
    return conversion_of(request.precision, target, request.calibration)


def check_device(plan: Plan, device: Device) -> None:
    """Raises what the device's agent would refuse: backend, precision, frames, images, sizes of files."""
    request, limits = plan.request, device.limits
    backends = {backend.name: backend for backend in device.backends}
    backend = backends.get(request.backend)
    if backend is None:
        raise UnknownBackend(
            f'--backend "{request.backend}": {request.device} has no such backend; it has {", ".join(backends)}'
        )
    if not backend.available:
        raise BackendUnavailable(f"{request.device} cannot open backend {backend.name}: {backend.reason}")
    _check_precision(plan, backend)
    frames = request.frames + request.warmup
    _at_most("--frames and --warmup together", frames, limits.frame_count, request.device)
    _at_most("images in --inputs", len(plan.images), limits.image_count, request.device)
    _at_most("--timeout in seconds", request.timeout_s, limits.run_duration_ns / SECOND_NS, request.device)
    check_files([*(model.path for model in plan.models if isinstance(model, ModelFile)), *plan.images], device)


def _check_precision(plan: Plan, backend: Backend) -> None:
    """Every backend runs fp32, whether it says so or not; the others are for it to say."""
    request, taken = plan.request, backend.precisions
    made_for = "tensorrt" if "tensorrt" in backend.name else "cpu"
    for model in plan.models:
        target = model.target if isinstance(model, ModelFile) and request.precision == AS_MODEL else None
        target = target or (plan.conversion.target if plan.conversion.precision == "int8" else None)
        if target in ("cpu", "tensorrt") and target != made_for:
            raise InvalidArgument(
                f"{model.name} is int8 for {target}, and {backend.name} would compute most of it in float;"
                f" take --for {made_for}"
            )
    for model in plan.models:
        stated = model.precision if isinstance(model, ModelFile) else None
        asked = (stated or AS_MODEL) if request.precision == AS_MODEL else request.precision
        if taken and asked not in (AS_MODEL, "fp32", *taken):
            what = f"--precision {asked}" if asked == request.precision else f"{model.name} is {asked}"
            raise InvalidArgument(f"{what}: {backend.name} on {request.device} takes {', '.join(taken)}")


def check_files(paths: Iterable[Path], device: Device) -> None:
    """Raises MessageTooLarge for a file that the device's agent does not take."""
    for path in paths:
        size = path.stat().st_size
        if size > device.limits.artifact_bytes:
            raise MessageTooLarge(
                f"{path} has {size} bytes; the device takes artifacts of at most {device.limits.artifact_bytes}"
            )


def uploads(plan: Plan, ready: Sequence[ReadyModel]) -> list[Upload]:
    """Everything that the runs need, each file once."""
    models = [upload for each in ready for upload in (each.model.upload, each.model.reference_upload) if upload]
    return list({upload.path: upload for upload in [*models, *map(image_upload, plan.images)]}.values())


def specifications(plan: Plan, ready: Sequence[ReadyModel], digests: Mapping[Path, str]) -> tuple[RunSpec, ...]:
    """A run for each model; `digests` are those of the files."""
    request = plan.request
    inputs = InputSpec(tuple(ImageRef(path.name, digests[path]) for path in plan.images))
    return tuple(
        RunSpec(
            run_id=new_run_id(),
            model=_model_ref(each.model, digests),
            height=each.size[0],
            width=each.size[1],
            batch=request.batch,
            backend=BackendSpec(request.backend, request.threads, request.spin),
            scenario=Scenario(frame_count=request.frames, warmup_frame_count=request.warmup),
            inputs=inputs,
            preprocess=each.model.preprocess,
            memory_pass=request.memory_pass,
            telemetry_rate_hz=request.telemetry_rate_hz,
            run_timeout_ns=round(request.timeout_s * SECOND_NS),
            labels={"name": request.name} if request.name else {},
        )
        for each in ready
    )


def _model_ref(model: ModelFile, digests: Mapping[Path, str]) -> ModelRef:
    reference = "" if model.reference is None else digests[model.reference]
    return ModelRef(model.name, digests[model.path], model.source, model.precision or AS_MODEL, reference)


def _check_ranges(request: ProfileRequest) -> None:
    if not request.models:
        raise InvalidArgument("no model given; name a backbone or the path of an .onnx file")
    _within("--frames", request.frames, 1, math.inf)
    _within("--warmup", request.warmup, 0, math.inf)
    _within("--batch", request.batch, 1, 1024)
    _within("--threads", 1 if request.threads is None else request.threads, 1, 1024)
    _within("--telemetry-rate", request.telemetry_rate_hz, 0, 10)
    _within("--timeout", request.timeout_s, 1, 86400 * 365)


def _within(flag: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        allowed = f"at least {lowest:g}" if highest == math.inf else f"between {lowest:g} and {highest:g}"
        raise InvalidRunSpec(f"{flag} is {value:g}; it must be {allowed}")


def _at_most(what: str, value: float, limit: float, device: str) -> None:
    if value > limit:
        raise InvalidRunSpec(f"{what}: {value:g} is more than {device} takes; at most {limit:g}")
