"""What the agent of a device would refuse, refused before anything is made or sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backbench.controller.analysis.validity import LOCKED
from backbench.controller.operations.backends import AS_MODEL, Route
from backbench.controller.operations.models import ModelFile
from backbench.controller.operations.plan import Plan, routes_of
from backbench.domain.device import Device
from backbench.domain.errors import (
    InvalidArgument,
    InvalidModel,
    InvalidRunSpec,
    MessageTooLarge,
    VersionMismatch,
)
from backbench.domain.run import SECOND_NS, Scenario, ScenarioName

TELEMETRY_SOURCES = "telemetry-sources"
"""The feature of agents that read sources one by one, each at its own rate."""
FORMER_RATE_HZ = 10.0
"""The highest rate of agents without it."""


def check_device(plan: Plan, device: Device) -> None:
    """Raises what the device's agent would refuse: backends, options, precision, scenario, limits, sizes of files."""
    found = routes_of(plan, device)
    for route in found:
        _check_precision(plan, route)
        _check_opsets(plan, route)
    _check_features(plan, found, device)
    _check_sensors(plan, device)
    _check_limits(plan, device)
    models = [model for model in plan.models if isinstance(model, ModelFile)]
    files = [path for model in models for path in (model.path, *model.external.values())]
    check_files([*files, *plan.images, *([] if plan.trace is None else [plan.trace])], device)


def check_queue(plan: Plan, device: Device) -> None:
    """Raises InvalidRunSpec for more runs at once than may wait on the device."""
    _at_most("runs that --detach hands over at once", plan.run_count, device.limits.queue_length, plan.request.device)


def _check_precision(plan: Plan, route: Route) -> None:
    """Every backend runs fp32, whether it says so or not; the others are for it to say."""
    request, name, taken = plan.request, route.backend.name, route.backend.precisions
    as_it_is = request.precision == AS_MODEL or bool(route.spec.precision)
    made_for = "tensorrt" if "tensorrt" in name else "cpu"
    for model in plan.models:
        target = model.target if isinstance(model, ModelFile) and as_it_is else None
        target = target or (route.conversion.target if route.conversion.precision == "int8" else None)
        if target in ("cpu", "tensorrt") and target != made_for:
            raise InvalidArgument(
                f"{model.name} is int8 for {target}, and {name} would compute most of it in float;"
                f" take --for {made_for}"
            )
    for model in plan.models:
        stated = model.precision if isinstance(model, ModelFile) else None
        asked = (stated or AS_MODEL) if as_it_is else request.precision
        if taken and asked not in (AS_MODEL, "fp32", *taken):
            what = f"--precision {asked}" if not as_it_is else f"{model.name} is {asked}"
            raise InvalidArgument(f"{what}: {name} on {request.device} takes {', '.join(taken)}")


def _check_opsets(plan: Plan, route: Route) -> None:
    newest = route.backend.max_opset
    for model in plan.models:
        if isinstance(model, ModelFile) and model.contract.opset > (newest or model.contract.opset):
            raise InvalidModel(
                f"{model.path} has opset {model.contract.opset}; {route.backend.name} on {plan.request.device} takes up"
                f" to {newest}: export it with --opset {newest}, or update the device"
            )


def check_files(paths: Iterable[Path], device: Device) -> None:
    """Raises MessageTooLarge for a file that the device's agent does not take."""
    for path in paths:
        size = path.stat().st_size
        if size > device.limits.artifact_bytes:
            raise MessageTooLarge(
                f"{path} has {size} bytes; the device takes artifacts of at most {device.limits.artifact_bytes}"
            )


def _check_features(plan: Plan, found: Sequence[Route], device: Device) -> None:
    for feature, words in _needed_features(plan, found):
        if feature not in device.features:
            raise VersionMismatch(
                f"the agent on {plan.request.device} does not know {words}; update Backbench on the device"
            )


def _needed_features(plan: Plan, found: Sequence[Route]) -> Iterator[tuple[str, str]]:
    """What an agent of the first release, which announces no features, cannot do."""
    name = plan.scenario.name
    if name is not ScenarioName.CLOSED_LOOP:
        yield f"scenario.{name.value}", f"scenario {name.value}"
    elif plan.scenario.duration_ns is not None:
        yield f"scenario.{name.value}", "--duration"
    request = plan.request
    asked = (
        (request.launches > 1, "launches", "--launches"),
        (plan.memory_limit_bytes is not None, "memory-limit", "--memory-limit"),
        (request.postprocess != "none", "postprocess", "--postprocess"),
        (request.take_turns, "interleave", "runs that take turns"),
        (bool(request.sensor), TELEMETRY_SOURCES, "--sensor"),
        (request.telemetry_rate_hz > FORMER_RATE_HZ, TELEMETRY_SOURCES, f"a --telemetry-rate above {FORMER_RATE_HZ:g}"),
        (plan.gate is not None, "cool-gate", "--wait-cool"),
        (request.regime == LOCKED, "set-clocks", "--regime locked"),
        (request.set_clocks, "set-clocks", "--set-clocks"),
        (request.layers, "layers", "--layers"),
    )
    yield from ((feature, words) for wanted, feature, words in asked if wanted)
    as_they_are = any(route.conversion.precision == "fp32" for route in found)
    for model in plan.models:
        if isinstance(model, ModelFile) and model.external and as_they_are:
            yield "external-data", f"models with weights in other files, as {model.path} has"


def _check_sensors(plan: Plan, device: Device) -> None:
    check_sources(plan.request.sensor, device, plan.request.device)
    temperatures = [each for each in device.sensors if each.name.startswith("temp.") and each.available]
    if plan.gate is not None and not temperatures:
        raise InvalidRunSpec(f"--wait-cool: {plan.request.device} reads no temperature to wait for; leave it away")


def check_sources(asked: Iterable[str], device: Device, name: str) -> None:
    """Raises InvalidArgument for a source that is unknown, read anyway, or not there, and says what would bring it."""
    known = {source.name: source for source in device.sensor_sources}
    offered = [source.name for source in device.sensor_sources if source.state == "off"]
    for each in asked:
        source = known.get(each)
        if source is None or source.state == "read":
            why = "reads no such source" if source is None else "reads it anyway"
            there = f"; it offers {', '.join(offered)}" if offered else ""
            raise InvalidArgument(f"--sensor {each}: {name} {why}{there}")
        if source.state != "off":
            raise InvalidArgument(f"--sensor {each}: {source.state} on {name}: {source.reason}")


def _check_limits(plan: Plan, device: Device) -> None:
    request, scenario, limits = plan.request, plan.scenario, device.limits
    what = "--frames and --warmup together" if scenario.frame_count else "frames in --duration at --fps"
    if scenario.name is ScenarioName.SWEEP and request.frames is None:
        what = "frames that --miss-ratio asks for"
    _at_most(what, _frames_of_a_launch(scenario), limits.frame_count, request.device)
    _at_most("images in --inputs", len(plan.images), limits.image_count, request.device)
    asked = "--timeout" if request.timeout_s is not None else "the time that the run may take"
    _at_most(f"{asked}, in seconds", plan.timeout_s, limits.run_duration_ns / SECOND_NS, request.device)
    if request.take_turns:
        _at_most("runs that take turns", plan.run_count, limits.queue_length, request.device)
    floor = limits.memory_limit_floor_bytes
    if plan.memory_limit_bytes is not None and floor is not None and plan.memory_limit_bytes < floor:
        raise InvalidRunSpec(
            f"--memory-limit is {request.memory_limit}; a worker on {request.device} holds {floor / 1e6:.0f} MB without"
            " a model: give more than that"
        )


def _frames_of_a_launch(scenario: Scenario) -> int:
    """Known beforehand, but where frames come back to back for a time."""
    timed = scenario.frame_count or (scenario.duration_ns or 0) * (scenario.rate_mhz or 0) // 10**12
    return (timed + scenario.warmup_frame_count) * (scenario.streams or 1)


def _at_most(what: str, value: float, limit: float, device: str) -> None:
    if value > limit:
        raise InvalidRunSpec(f"{what}: {value:g} is more than {device} takes; at most {limit:g}")
