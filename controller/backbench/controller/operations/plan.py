"""What a profile will do, checked as far as possible before anything is created, sent or started."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backbench.controller.analysis.budgets import OF_TELEMETRY, why_unmeasurable
from backbench.controller.analysis.validity import LOCKED
from backbench.controller.client.uploads import Upload
from backbench.controller.export.exporter import Conversion
from backbench.controller.export.images import find_images
from backbench.controller.export.request import DEFAULT_OPSET, LOWEST_OPSET, check_weights
from backbench.controller.export.timm_import import require_export
from backbench.controller.operations.backends import (
    AS_MODEL,
    BF16,
    DEFAULT_BACKEND,
    Asked,
    Route,
    check_names,
    parse_options,
    routes,
)
from backbench.controller.operations.export import conversion_of
from backbench.controller.operations.images import image_upload
from backbench.controller.operations.making import ModelMaker, ModelOrder
from backbench.controller.operations.models import ModelFile, Size, parse_size, resolve_model
from backbench.controller.operations.ranges import one_of, quantity_within, within
from backbench.controller.operations.scenarios import PlannedScenario, ScenarioRequest, plan_scenario
from backbench.domain.artifact import ArtifactKind
from backbench.domain.budget import Budget, parse_budget
from backbench.domain.device import Device
from backbench.domain.errors import InvalidArgument, InvalidBudget, InvalidRunSpec, UnknownBackbone
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import (
    SECOND_NS,
    BackendSpec,
    ExternalData,
    ImageRef,
    InputSpec,
    ModelRef,
    Priority,
    RunSpec,
    Scenario,
    ScenarioName,
)
from backbench.models import catalog
from backbench.models.reference import read_reference

POSTPROCESSES = ("none", "top-1")
AS_SHIPPED = "as-shipped"
REGIMES = (AS_SHIPPED, LOCKED)
DEFAULT_MAX_WAIT = "10m"
_SPARE_S = 3600
"""What a run may take besides its timed windows, unless a limit is asked for."""


@dataclass(frozen=True, slots=True)
class ProfileRequest(ScenarioRequest):
    """What was asked for, as it was written. `size` None takes each model's own; `inputs` None, synthetic images.

    `weights` None profiles a backbone of the catalogue as a skeleton; otherwise torch exports it first. `timeout_s`
    None gives the run an hour besides its timed windows. `take_turns` refuses a device whose runs cannot interleave
    their launches. Every backend executes every model; `backend_option` are texts NAME=VALUE.
    """

    models: tuple[str, ...]
    device: str
    size: str | None = None
    batch: int = 1
    inputs: Path | None = None
    budgets: tuple[str, ...] = ()
    backends: tuple[str, ...] = (DEFAULT_BACKEND,)
    threads: int | None = None
    spin: bool = True
    backend_option: tuple[str, ...] = ()
    dla: int | None = None
    cuda_graph: bool = False
    allow_fallback: bool = False
    layers: bool = False
    precision: str = AS_MODEL
    weights: str | None = None
    target: str | None = None
    calibration: Path | None = None
    telemetry_rate_hz: float = 10.0
    sensor: tuple[str, ...] = ()
    wait_cool: str | None = None
    max_wait: str | None = None
    regime: str = AS_SHIPPED
    set_clocks: bool = False
    memory_pass: bool = True
    timeout_s: float | None = None
    name: str = ""
    launches: int = 1
    memory_limit: str | None = None
    postprocess: str = "none"
    priority: str = Priority.INTERACTIVE.value
    take_turns: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """The temperature below which a run begins, in thousandths of a degree, and how long it waits for that."""

    temperature_mc: int
    limit_ns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A request whose parts are all found and sound. A size is None where only timm knows the backbone's own.

    `conversions` are by backend: what becomes of models that are made for it.
    """

    request: ProfileRequest
    models: tuple[ModelFile | ModelOrder, ...]
    sizes: tuple[Size | None, ...]
    images: tuple[Path, ...]
    budgets: tuple[Budget, ...]
    conversions: Mapping[str, Conversion]
    options: Mapping[str, str]
    arrivals: PlannedScenario
    memory_limit_bytes: int | None
    gate: Gate | None

    @property
    def scenario(self) -> Scenario:
        """How frames arrive; the digest of its trace comes with the run specifications."""
        return self.arrivals.scenario

    @property
    def run_count(self) -> int:
        """One run for each model and backend."""
        return len(self.models) * len(self.conversions)

    @property
    def trace(self) -> Path | None:
        """The file of recorded arrivals."""
        return self.request.trace

    @property
    def timeout_s(self) -> float:
        """The longest time for one run."""
        wait_s = 0 if self.gate is None else math.ceil(self.gate.limit_ns / SECOND_NS)
        return self.request.timeout_s or _SPARE_S + wait_s + math.ceil(_windows_s(self.request, self.arrivals))


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A model whose file is there, the size it is run at, and what is asked of the backend that executes it."""

    model: ModelFile
    size: Size
    backend: BackendSpec


def plan_profile(request: ProfileRequest) -> Plan:
    """The plan of a request. Raises InvalidRequest for the first thing that is wrong with it."""
    _check_ranges(request)
    arrivals = plan_scenario(request)
    _check_launches(request, arrivals)
    _check_seed(request, arrivals.scenario)
    budgets = tuple(parse_budget(text) for text in request.budgets)
    for budget in budgets:
        if reason := _why_unmeasurable(budget, request, arrivals.scenario):
            raise InvalidBudget(f'budget "{budget.text}": {reason}')
    asked = None if request.size is None else parse_size(request.size)
    options = parse_options(request.backend_option, request.dla, request.cuda_graph)
    conversions = _conversions(request)
    models = tuple(_resolved(text, request.weights) for text in request.models)
    for model in models:
        model.check_batch(request.batch)
        if request.precision == "fp32" and isinstance(model, ModelFile) and model.precision not in ("fp32", None):
            raise InvalidArgument(f"{model.path} is {model.precision} already; leave --precision away")
    sizes = tuple(model.size(asked) for model in models)
    images = () if request.inputs is None else find_images(request.inputs)
    return Plan(
        request=request,
        models=models,
        sizes=sizes,
        images=images,
        budgets=budgets,
        conversions=conversions,
        options=options,
        arrivals=arrivals,
        memory_limit_bytes=_memory_limit_bytes(request),
        gate=_gate(request),
    )


def routes_of(plan: Plan, device: Device) -> tuple[Route, ...]:
    """How each backend of a plan comes to its models. Raises what `backends.routes` does."""
    request = plan.request
    asked = Asked(request.precision, request.threads, request.spin, plan.options, request.allow_fallback)
    return routes(plan.conversions, asked, device, request.device)


def make_ready(plan: Plan, found: Sequence[Route], maker: ModelMaker) -> tuple[ReadyModel, ...]:
    """Every model of a plan as a file for every backend: exported, converted, given reference outputs where need be.

    Backends that take the same file share it; the runs of a model follow each other.
    """
    opset, ready = newest_opset(found), []
    for model, size in zip(plan.models, plan.sizes, strict=True):
        made: dict[Conversion, tuple[ModelFile, Size]] = {}
        for route in found:
            if route.conversion not in made:
                made[route.conversion] = _ready(maker, model, size, plan.request.batch, opset, route.conversion)
            ready.append(ReadyModel(*made[route.conversion], route.spec))
    return tuple(ready)


def newest_opset(found: Iterable[Route]) -> int:
    """The opset to export with: the newest that all backends take."""
    newest = [route.backend.max_opset or DEFAULT_OPSET for route in found]
    return max(min(*newest, DEFAULT_OPSET), LOWEST_OPSET)


def _ready(
    maker: ModelMaker,
    model: ModelFile | ModelOrder,
    size: Size | None,
    batch: int,
    opset: int,
    conversion: Conversion,
) -> tuple[ModelFile, Size]:
    if isinstance(model, ModelOrder):
        made = maker.ordered(model, size, batch, opset, conversion)
        return made, made.size(size)
    taken = model.size(size)
    model = model.at(taken)
    if conversion.precision != "fp32":
        return maker.converted(model, taken, batch, conversion), taken
    if model.contract.skeleton or (model.reference is not None and not _is_for(model.reference, taken)):
        model = maker.with_reference(model, taken)
    return model, taken


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


def _conversions(request: ProfileRequest) -> dict[str, Conversion]:
    check_names(request.backends)
    return {name: _conversion(request, name) for name in request.backends}


def _conversion(request: ProfileRequest, backend: str) -> Conversion:
    if request.precision in (AS_MODEL, BF16):
        if request.target is not None:
            raise InvalidArgument("--for is of no use without --precision int8; add it, or leave it away")
        if request.calibration is not None:
            raise InvalidArgument("--calibration is of no use without --precision int8; add it, or leave it away")
        return Conversion()
    by_backend = "tensorrt" if "tensorrt" in backend else None
    target = request.target or (by_backend if request.precision == "int8" else None)
    return conversion_of(request.precision, target, request.calibration)


def uploads(plan: Plan, ready: Sequence[ReadyModel]) -> list[Upload]:
    """Everything that the runs need, each file once."""
    models = [upload for each in ready for upload in (*each.model.uploads, each.model.reference_upload) if upload]
    trace = [] if plan.trace is None else [Upload(plan.trace, ArtifactKind.TRACE, plan.trace.name)]
    return list({upload.path: upload for upload in [*models, *map(image_upload, plan.images), *trace]}.values())


def specifications(plan: Plan, ready: Sequence[ReadyModel], digests: Mapping[Path, str]) -> tuple[RunSpec, ...]:
    """A run for each ready model; `digests` are those of the files."""
    request = plan.request
    inputs = InputSpec(tuple(ImageRef(path.name, digests[path]) for path in plan.images), request.seed or 0)
    scenario = plan.scenario if plan.trace is None else replace(plan.scenario, trace_sha256=digests[plan.trace])
    return tuple(
        RunSpec(
            run_id=new_run_id(),
            model=_model_ref(each.model, digests),
            height=each.size[0],
            width=each.size[1],
            batch=request.batch,
            backend=each.backend,
            scenario=scenario,
            inputs=inputs,
            preprocess=each.model.preprocess,
            launches=request.launches,
            memory_pass=request.memory_pass,
            telemetry_rate_hz=request.telemetry_rate_hz,
            run_timeout_ns=round(plan.timeout_s * SECOND_NS),
            labels={"name": request.name} if request.name else {},
            memory_limit_bytes=plan.memory_limit_bytes,
            priority=Priority(request.priority),
            postprocess="" if request.postprocess == "none" else request.postprocess,
            wait_cool_mc=None if plan.gate is None else plan.gate.temperature_mc,
            wait_cool_limit_ns=None if plan.gate is None else plan.gate.limit_ns,
            regime=request.regime,
            set_clocks=request.set_clocks,
            extra_sources=request.sensor,
            layers_pass=request.layers,
        )
        for each in ready
    )


def _model_ref(model: ModelFile, digests: Mapping[Path, str]) -> ModelRef:
    reference = "" if model.reference is None else digests[model.reference]
    external = tuple(ExternalData(location, digests[path]) for location, path in model.external.items())
    return ModelRef(model.name, digests[model.path], model.source, model.precision or AS_MODEL, reference, external)


def _check_ranges(request: ProfileRequest) -> None:
    if not request.models:
        raise InvalidArgument("no model given; name a backbone or the path of an .onnx file")
    if not request.backends:
        raise InvalidArgument("no backend given; name one, or leave --backend away")
    within("--batch", request.batch, 1, 1024)
    within("--threads", 1 if request.threads is None else request.threads, 1, 1024)
    within("--telemetry-rate", request.telemetry_rate_hz, 0, 50)
    within("--timeout", 1 if request.timeout_s is None else request.timeout_s, 1, 86400 * 365)
    within("--launches", request.launches, 1, 100)
    within("--seed", request.seed or 0, 0, 2**63 - 1)
    one_of("--postprocess", request.postprocess, POSTPROCESSES)
    one_of("--priority", request.priority, tuple(priority.value for priority in Priority))
    one_of("--regime", request.regime, REGIMES)
    if request.telemetry_rate_hz == 0 and request.sensor:
        raise InvalidArgument("--sensor is of no use with --telemetry-rate 0; leave one of them away")


def _check_launches(request: ProfileRequest, arrivals: PlannedScenario) -> None:
    name, seconds = arrivals.scenario.name, _windows_s(request, arrivals)
    if request.launches > 1 and name in (ScenarioName.SWEEP, ScenarioName.STREAMS):
        raise InvalidRunSpec(
            f"--launches is {request.launches}; the launches of scenario {name.value} are its steps: leave it away"
        )
    if request.timeout_s is not None and seconds > request.timeout_s:
        raise InvalidRunSpec(
            f"--timeout is {request.timeout_s:g}; the timed windows alone take {seconds:g} s; raise it or leave it away"
        )


def _windows_s(request: ProfileRequest, arrivals: PlannedScenario) -> float:
    """What the timed windows of one run take at least."""
    return arrivals.length_ns * request.launches / SECOND_NS


def _check_seed(request: ProfileRequest, scenario: Scenario) -> None:
    if request.seed is not None and request.inputs is not None and scenario.name is not ScenarioName.POISSON:
        raise InvalidRunSpec("--seed is of no use with --inputs, but in scenario poisson; leave one of them away")


def _gate(request: ProfileRequest) -> Gate | None:
    if request.wait_cool is None:
        if request.max_wait is not None:
            raise InvalidArgument("--max-wait is of no use without --wait-cool; add it, such as --wait-cool 45C")
        return None
    celsius = quantity_within("--wait-cool", request.wait_cool, "temperature", "1C", "120C")
    limit = quantity_within("--max-wait", request.max_wait or DEFAULT_MAX_WAIT, "duration", "1s", "24h")
    return Gate(round(celsius * 1000), round(limit * SECOND_NS / 1000))


def _memory_limit_bytes(request: ProfileRequest) -> int | None:
    if request.memory_limit is None:
        return None
    return round(quantity_within("--memory-limit", request.memory_limit, "memory", "1MB", "1000000GB") * 1e6)


def _why_unmeasurable(budget: Budget, request: ProfileRequest, scenario: Scenario) -> str | None:
    if budget.metric == "memory" and not request.memory_pass:
        return "memory is measured in the memory pass; leave --no-memory-pass or the budget away"
    if budget.metric in OF_TELEMETRY and request.telemetry_rate_hz == 0:
        return f"{budget.metric} is telemetry; leave --telemetry-rate 0 or the budget away"
    if budget.span == "preprocess" and request.inputs is None:
        return "synthetic images are not preprocessed; add --inputs PATH"
    if budget.span == "postprocess" and request.postprocess == "none":
        return "nothing is done with the outputs; add --postprocess top-1"
    return why_unmeasurable(budget, scenario)
