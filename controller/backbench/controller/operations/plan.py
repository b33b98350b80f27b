"""What a profile will do, checked as far as possible before anything is created, sent or started."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbench.controller.operations.images import find_images
from backbench.controller.operations.models import ModelFile, Size, parse_size, resolve_model
from backbench.domain.budget import Budget, parse_budget
from backbench.domain.device import Device
from backbench.domain.errors import (
    BackendUnavailable,
    InvalidArgument,
    InvalidBudget,
    InvalidRunSpec,
    MessageTooLarge,
    UnknownBackend,
)
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import SECOND_NS, BackendSpec, ImageRef, InputSpec, ModelRef, RunSpec, Scenario


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What was asked for, as it was written. `size` None takes each model's own; `inputs` None, synthetic images."""

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
    precision: str = "as-model"
    telemetry_rate_hz: float = 2.0
    memory_pass: bool = True
    timeout_s: float = 3600.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request whose parts are all found and sound."""

    request: ProfileRequest
    models: tuple[ModelFile, ...]
    sizes: tuple[Size, ...]
    images: tuple[Path, ...]
    budgets: tuple[Budget, ...]


def plan_profile(request: ProfileRequest) -> Plan:
    """The plan of a request. Raises InvalidRequest for the first thing that is wrong with it."""
    _check_ranges(request)
    budgets = tuple(parse_budget(text) for text in request.budgets)
    if not request.memory_pass and any(budget.metric == "memory" for budget in budgets):
        raise InvalidBudget("a memory budget needs the memory pass; leave --no-memory-pass or the budget away")
    asked = None if request.size is None else parse_size(request.size)
    models = tuple(resolve_model(text) for text in request.models)
    for model in models:
        model.check_batch(request.batch)
    sizes = tuple(model.size(asked) for model in models)
    images = () if request.inputs is None else find_images(request.inputs)
    return Plan(request, models, sizes, images, budgets)


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
    if backend.precisions and request.precision not in backend.precisions:
        raise InvalidArgument(
            f'--precision "{request.precision}": {backend.name} on {request.device} takes'
            f" {', '.join(backend.precisions)}"
        )
    frames = request.frames + request.warmup
    _at_most("--frames and --warmup together", frames, limits.frame_count, request.device)
    _at_most("images in --inputs", len(plan.images), limits.image_count, request.device)
    _at_most("--timeout in seconds", request.timeout_s, limits.run_duration_ns / SECOND_NS, request.device)
    for path in (*(model.path for model in plan.models), *plan.images):
        size = path.stat().st_size
        if size > limits.artifact_bytes:
            raise MessageTooLarge(
                f"{path} has {size} bytes; {request.device} takes artifacts of at most {limits.artifact_bytes}"
            )


def specifications(plan: Plan, digests: Sequence[str]) -> tuple[RunSpec, ...]:
    """A run for each model. `digests` are those of the models, then those of the images."""
    request = plan.request
    images = zip(plan.images, digests[len(plan.models) :], strict=True)
    inputs = InputSpec(tuple(ImageRef(path.name, sha256) for path, sha256 in images))
    return tuple(
        RunSpec(
            run_id=new_run_id(),
            model=ModelRef(model.name, sha256, model.source, request.precision),
            height=size[0],
            width=size[1],
            batch=request.batch,
            backend=BackendSpec(request.backend, request.threads, request.spin),
            scenario=Scenario(frame_count=request.frames, warmup_frame_count=request.warmup),
            inputs=inputs,
            preprocess=model.preprocess,
            memory_pass=request.memory_pass,
            telemetry_rate_hz=request.telemetry_rate_hz,
            run_timeout_ns=round(request.timeout_s * SECOND_NS),
            labels={"name": request.name} if request.name else {},
        )
        for model, size, sha256 in zip(plan.models, plan.sizes, digests, strict=False)
    )


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
