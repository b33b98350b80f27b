"""From an ONNX file to a plan: parse, set up, build; what goes wrong on the way in one line with TensorRT's words."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.tensorrt.logger import LogLines, make_logger
from backbench.agent.backends.tensorrt.module import OF_NO_USE, Library
from backbench.agent.backends.tensorrt.options import EngineOptions
from backbench.agent.backends.tensorrt.precision import Policy, builder_flags, policy_for, policy_words
from backbench.agent.backends.tensorrt.progress import Progress, Termination, make_monitor
from backbench.domain.run import FailureReason

_ERRORS_TOLD = 3
_LAYERS_TOLD = 40


@dataclass(slots=True)
class Built:
    """A plan, what is known of it, and what it took. `plan` stays valid as long as this object."""

    plan: memoryview
    facts: dict[str, str]
    counters: dict[str, int]


@dataclass(slots=True)
class _Build:
    """One build under way."""

    library: Library
    request: OpenRequest
    options: EngineOptions
    policy: Policy
    lines: LogLines = field(default_factory=LogLines)
    facts: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    parser: Any = None
    """Kept until the plan is there: the network's weights are views of what the parser read."""


def build_plan(
    library: Library, request: OpenRequest, options: EngineOptions, timing_cache: Path | None, progress: Progress
) -> Built:
    """Build a plan for the request's one shape. `timing_cache` is a file that is read and written, None for none.

    Where the version can stop a build, SIGTERM does. Raises WorkerFailure.
    """
    build = _Build(library, request, options, policy_for(library, request.precision, on_dla=options.dla is not None))
    logger = make_logger(library.module, build.lines)
    builder = _builder(build, logger)
    network = _parsed(build, builder, logger)
    flags = builder_flags(library, build.policy, network)
    config = _config(build, builder, network, flags)
    cache = _timing_cache(build, config, timing_cache)
    build.facts |= {
        "precision_policy": policy_words(build.policy, flags),
        "tensorrt": f"{library.label} {library.version}",
        "built_for": "x".join(map(str, request.input_shape)),
    }
    build.counters["layer_count"] = network.num_layers
    with Termination(watched=library.has_progress) as termination:
        monitor = make_monitor(library.module, progress, termination.asked) if library.has_progress else None
        if monitor is not None:
            config.progress_monitor = monitor
        plan = _serialized(build, builder, network, config, termination.asked)
    if cache is not None and timing_cache is not None:
        _keep_timings(config, timing_cache)
    return Built(memoryview(plan), build.facts, build.counters)


def _builder(build: _Build, logger: Any) -> Any:
    module = build.library.module
    try:
        return module.Builder(logger)
    except TypeError as error:  # "factory function returned nullptr"
        what = f"{build.library.label} {build.library.version} makes no builder"
        raise build.lines.failure(what, FailureReason.BACKEND_UNAVAILABLE, OF_NO_USE) from error


def _parsed(build: _Build, builder: Any, logger: Any) -> Any:
    """The network of the model, looked at."""
    network = builder.create_network(build.policy.network_flags)
    if network is None:
        raise build.lines.failure(
            f"{build.library.label} makes no network", FailureReason.ENGINE_BUILD_FAILED, "run it again"
        )
    build.parser = parser = build.library.module.OnnxParser(network, logger)
    if not parser.parse_from_file(build.request.model_path):
        raise _parser_failure(build, parser)
    if network.num_outputs == 0 or network.num_layers == 0:  # what is no model parses without an error
        raise WorkerFailure(
            FailureReason.INVALID_MODEL,
            f"{build.library.label} finds no layers or no outputs in the model; export the model again",
        )
    _check_input(build, network)
    return network


def _parser_failure(build: _Build, parser: Any) -> WorkerFailure:
    """Which operators are not supported, in TensorRT's own words."""
    told = [_parser_error(parser.get_error(index)) for index in range(min(parser.num_errors, _ERRORS_TOLD))]
    more = parser.num_errors - len(told)
    words = "; ".join(told) or build.lines.words()
    if more > 0:
        words += f"; and {more} more"
    return WorkerFailure(
        FailureReason.INVALID_MODEL,
        f"{build.library.label} {build.library.version} does not take the model: {words};"
        " export it without what is named here, or in another opset or precision",
    )


def _parser_error(error: Any) -> str:
    """One error of the parser. Before 10 it knows a node's number only."""
    words = " ".join(str(error.desc()).split())[:200].rstrip(". ")
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    name = error.node_name() if hasattr(error, "node_name") else ""
    node = name or (str(error.node()) if error.node() >= 0 else "")
    where = f"operator {operator} " if operator else ""
    return f"{where}(node {node}): {words}" if node else f"{where}{words}"


def _check_input(build: _Build, network: Any) -> None:
    """One input of float32 numbers whose shape is, or may be, the run's."""
    if network.num_inputs != 1:
        names = ", ".join(network.get_input(index).name for index in range(network.num_inputs))
        raise WorkerFailure(
            FailureReason.INVALID_MODEL,
            f"the model has {network.num_inputs} inputs ({names}); export it with the image as its only one",
        )
    tensor = network.get_input(0)
    shape, wanted = tuple(tensor.shape), build.request.input_shape
    if tensor.dtype != build.library.module.DataType.FLOAT:
        raise WorkerFailure(
            FailureReason.INVALID_MODEL,
            f'the model\'s input "{tensor.name}" is {tensor.dtype.name}; export it with a float32 input',
        )
    if min(wanted) < 1:
        raise WorkerFailure(
            FailureReason.SHAPE_MISMATCH, f'the size of the model\'s input "{tensor.name}" is open; give a --size'
        )
    if len(shape) != len(wanted) or any(size not in (-1, want) for size, want in zip(shape, wanted, strict=True)):
        raise WorkerFailure(
            FailureReason.SHAPE_MISMATCH,
            f"the model takes {_shape_words(shape)} and not {_shape_words(wanted)}; choose another --size or --batch",
        )


def _config(build: _Build, builder: Any, network: Any, flags: tuple[str, ...]) -> Any:
    module, options = build.library.module, build.options
    config = builder.create_builder_config()
    for name in flags:
        config.set_flag(build.library.builder_flag(name))
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # what `layers` joins times with
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        _set_optimization_level(build, config, options.optimization_level)
    build.facts |= {
        "workspace": "the library's own" if options.workspace_bytes is None else str(options.workspace_bytes),
        "optimization_level": str(getattr(config, "builder_optimization_level", "not known to this version")),
    }
    if options.dla is not None:
        _use_dla(build, builder, network, config, options.dla)
    _add_profile(build, builder, network, config)
    return config


def _set_optimization_level(build: _Build, config: Any, level: int) -> None:
    if not hasattr(config, "builder_optimization_level"):
        raise WorkerFailure(
            FailureReason.ENGINE_BUILD_FAILED,
            f"{build.library.label} {build.library.version} has no optimization level; leave the option out",
        )
    config.builder_optimization_level = level


def _add_profile(build: _Build, builder: Any, network: Any, config: Any) -> None:
    """A profile of the one size that is run, where the model leaves sizes open."""
    tensor = network.get_input(0)
    if -1 not in tuple(tensor.shape):
        build.facts["profile"] = "none: a fixed shape"
        return
    shape = build.request.input_shape
    profile = builder.create_optimization_profile()
    try:
        profile.set_shape(tensor.name, shape, shape, shape)
        added = config.add_optimization_profile(profile)
    except ValueError:
        added = -1
    if added < 0:
        what = f"{build.library.label} takes no profile of {_shape_words(shape)}"
        raise build.lines.failure(what, FailureReason.ENGINE_BUILD_FAILED, "choose another --size")
    build.facts["profile"] = f"minimum, optimum and maximum {_shape_words(shape)}"


def _use_dla(build: _Build, builder: Any, network: Any, config: Any, core: int) -> None:
    """Put on a DLA core what it can run; what it cannot is left to the GPU, and told."""
    module, count = build.library.module, builder.num_DLA_cores
    if core >= count:
        has = f"offers {count} DLA cores here" if count else "offers no DLA cores here"
        raise WorkerFailure(
            FailureReason.ENGINE_BUILD_FAILED,
            f"{build.library.label} {build.library.version} {has}, and core {core} was asked for; leave --dla out"
            + (f" or choose from 0 to {count - 1}" if count else ""),
        )
    config.default_device_type = module.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(module.BuilderFlag.GPU_FALLBACK)
    fallen = [
        f"{layer.name} ({layer.type.name})"
        for layer in map(network.get_layer, range(network.num_layers))
        if not config.can_run_on_DLA(layer)
    ]
    if len(fallen) == network.num_layers and not build.request.allow_fallback:
        raise WorkerFailure(
            FailureReason.ENGINE_BUILD_FAILED,
            f"DLA core {core} can run none of the model's layers; ask for fp16 or use an int8 model,"
            " or let the GPU run it all (--allow-fallback)",
        )
    told = ", ".join(fallen[:_LAYERS_TOLD])
    if len(fallen) > _LAYERS_TOLD:
        told += f" and {len(fallen) - _LAYERS_TOLD} more"
    build.facts |= {"dla": str(core), "dla_fallback": told or "none"}
    build.counters |= {
        "dla_layer_count": network.num_layers - len(fallen),
        "dla_fallback_layer_count": len(fallen),
    }


def _timing_cache(build: _Build, config: Any, path: Path | None) -> Any | None:
    """The timing cache that this build uses; None for none. One that cannot be read, or is another's, starts anew."""
    if path is None or not build.options.timing_cache or not build.library.has_timing_cache:
        build.facts["timing_cache"] = "none"
        return None
    try:
        known = path.read_bytes()
    except OSError:
        known = b""
    cache = config.create_timing_cache(known)
    if not known or cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        known = b""
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            build.facts["timing_cache"] = "none: the library makes none"
            return None
    build.lines.clear()  # that an old cache does not fit is no reason for what fails later
    build.facts["timing_cache"] = "used" if known else "begun"
    return cache


def _keep_timings(config: Any, path: Path) -> None:
    """Write the timing cache, whole or not at all. Without room it is not kept: the next build takes longer."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(memoryview(cache.serialize()))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def _serialized(build: _Build, builder: Any, network: Any, config: Any, stopped: Callable[[], bool]) -> Any:
    start_ns = time.perf_counter_ns()
    plan = builder.build_serialized_network(network, config)
    build.counters["build_ns"] = time.perf_counter_ns() - start_ns
    if plan is not None:
        build.counters["engine_bytes"] = plan.nbytes
        return plan
    if stopped():
        raise WorkerFailure(FailureReason.ENGINE_BUILD_FAILED, "the build was stopped before the engine was ready")
    what = f"{build.library.label} {build.library.version} builds no engine of the model"
    remedy = "try another precision or size, or more room (--backend-option workspace=4GB)"
    raise build.lines.failure(what, FailureReason.ENGINE_BUILD_FAILED, remedy)


def _shape_words(shape: tuple[int, ...]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape)
