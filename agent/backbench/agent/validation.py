"""What this agent can carry out, checked before a run is taken."""

from __future__ import annotations

import math

from backbench.agent.sampling.lines import Survey
from backbench.domain.arrivals import HIGHEST_RATE_MHZ, LOWEST_RATE_MHZ
from backbench.domain.artifact import is_sha256
from backbench.domain.device import Backend, Limits
from backbench.domain.errors import InvalidRunSpec
from backbench.domain.external import check_locations
from backbench.domain.identifiers import is_run_id
from backbench.domain.run import SECOND_NS, BackendSpec, QueuePolicy, RunSpec, Scenario, ScenarioName

FEATURES = (
    *(f"scenario.{name.value}" for name in ScenarioName),
    "launches",
    "memory-limit",
    "postprocess",
    "interleave",
    "external-data",
    "telemetry-sources",
    "cool-gate",
    "set-clocks",
    "backend-options",
    "engine-build",
    "layers",
)
"""What this agent does beyond one launch of a closed loop of frames, by the names that it announces."""
_AT_A_RATE = (
    ScenarioName.PACED, ScenarioName.POISSON, ScenarioName.SOAK, ScenarioName.STREAMS, ScenarioName.SWEEP,
)  # fmt: skip
_FOR_A_TIME = (ScenarioName.CLOSED_LOOP, ScenarioName.PACED, ScenarioName.SOAK)
_HOUR_NS = 3600 * SECOND_NS
_HIGHEST_RATE_HZ = 50.0
_HOTTEST_MC = 150_000
_REGIMES = ("", "as-shipped", "locked")
_LONGEST_GROUP_ID = 64
_LONGEST_OPTION = 64
_POSTPROCESSES = ("", "top-1")
_SOURCES = ("skeleton", "export", "file")
_PRECISIONS = ("as-model", "fp32", "fp16", "int8")


def check_spec(spec: RunSpec, limits: Limits) -> None:
    """Raises InvalidRunSpec, naming the field and its range, for the first thing that cannot be carried out."""
    if not is_run_id(spec.run_id):
        raise InvalidRunSpec(f'run_id "{spec.run_id[:64]}" is not a UUIDv7 in lower case')
    _check_digests(spec)
    _check_choices(spec)
    _in_range("height", spec.height, 1, 16384)
    _in_range("width", spec.width, 1, 16384)
    _in_range("batch", spec.batch, 1, 1024)
    _in_range("launches", spec.launches, 1, 100)
    _in_range("threads", spec.backend.threads or 0, 0, 1024)
    _in_range("images", len(spec.inputs.images), 0, limits.image_count)
    _in_range("synthetic_count", spec.inputs.synthetic_count, 1, limits.image_count)
    _in_range("seed of the inputs", spec.inputs.seed, 0, 2**63 - 1)
    _in_range("run_timeout_ns", spec.run_timeout_ns, SECOND_NS, limits.run_duration_ns)
    _in_range("stall_timeout_ns", spec.stall_timeout_ns, SECOND_NS, limits.run_duration_ns)
    _check_telemetry(spec)
    _check_preprocess(spec)
    _check_scenario(spec.scenario, limits)
    _check_launches(spec, limits)


def _check_digests(spec: RunSpec) -> None:
    check_locations([file.location for file in spec.model.external], spec.model.name[:64] or "the model")
    if spec.model.external and spec.model.source == "skeleton":
        raise InvalidRunSpec("a skeleton has no weights, so none in other files; leave external away")
    named = (*spec.artifacts, spec.model.sha256, *(file.sha256 for file in spec.model.external))
    for sha256 in named:
        if not is_sha256(sha256):
            raise InvalidRunSpec(f'"{sha256[:64]}" is not a SHA-256 of 64 lower-case hex digits')


def _check_choices(spec: RunSpec) -> None:
    if spec.model.source not in _SOURCES:
        raise InvalidRunSpec(f'model source "{spec.model.source}" is none of {", ".join(_SOURCES)}')
    if spec.postprocess not in _POSTPROCESSES:
        raise InvalidRunSpec(f'postprocess "{spec.postprocess[:64]}" is unknown; take "top-1", or none')
    if spec.model.precision not in _PRECISIONS:
        raise InvalidRunSpec(
            f"this agent does not carry out precision {spec.model.precision} yet; leave it away or update the agent"
        )


def _check_telemetry(spec: RunSpec) -> None:
    if not 0 <= spec.telemetry_rate_hz <= _HIGHEST_RATE_HZ:
        raise InvalidRunSpec(
            f"telemetry_rate_hz is {spec.telemetry_rate_hz:g}; it must lie between 0 and {_HIGHEST_RATE_HZ:g}"
        )
    if spec.regime not in _REGIMES:
        raise InvalidRunSpec(f'regime "{spec.regime[:64]}" is none of {", ".join(_REGIMES[1:])}')
    if spec.wait_cool_mc is not None:
        _in_range("wait_cool_mc", spec.wait_cool_mc, 1, _HOTTEST_MC)
        _in_range("wait_cool_limit_ns", spec.wait_cool_limit_ns or SECOND_NS, SECOND_NS, _HOUR_NS)
    elif spec.wait_cool_limit_ns is not None:
        raise InvalidRunSpec("wait_cool_limit_ns is there without wait_cool_mc; give both, or leave it away")


def check_backend(asked: BackendSpec, backend: Backend) -> None:
    """Raises InvalidRunSpec for an option or a precision that a backend of this agent does not take."""
    for name, value in asked.options.items():
        if name not in backend.options:
            known = ", ".join(backend.options) or "none"
            raise InvalidRunSpec(f'backend {backend.name} has no option "{name[:64]}"; its options: {known}')
        if not value or len(value) > _LONGEST_OPTION or not value.isprintable():
            raise InvalidRunSpec(
                f"option {name} of backend {backend.name} must have a value of 1 to {_LONGEST_OPTION} characters"
            )
    if asked.precision and asked.precision not in backend.engine_precisions:
        known = ", ".join(backend.engine_precisions) or "none"
        raise InvalidRunSpec(
            f'backend {backend.name} does not choose precision "{asked.precision[:64]}" itself (it chooses: {known});'
            " convert the model instead"
        )


def check_gate(survey: Survey) -> None:
    """Raises InvalidRunSpec where there is no temperature to wait for; not where no survey could be made."""
    if survey.sources and not survey.offers("temp."):
        raise InvalidRunSpec("wait_cool_mc is given, and this device shows no temperature to wait for; leave it away")


def _check_preprocess(spec: RunSpec) -> None:
    preprocess = spec.preprocess
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise InvalidRunSpec(f"preprocess {name} must be three finite numbers, one a channel")
    if min(preprocess.std) <= 0:
        raise InvalidRunSpec("preprocess std must be above 0")
    if not 0 < preprocess.crop_ratio <= 1:
        raise InvalidRunSpec(f"preprocess crop_ratio is {preprocess.crop_ratio:g}; it must lie above 0 and up to 1")
    if preprocess.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise InvalidRunSpec(f'preprocess interpolation "{preprocess.interpolation}" is unknown')


def _check_scenario(scenario: Scenario, limits: Limits) -> None:
    name = scenario.name
    for field, value, takers in (
        ("rate_mhz", scenario.rate_mhz, _AT_A_RATE),
        ("duration_ns", scenario.duration_ns, _FOR_A_TIME),
    ):
        if value is not None and name not in takers:
            raise InvalidRunSpec(f"{field} is {value}; scenario {name.value} has no use for it, leave it away")
    if name in (ScenarioName.PACED, ScenarioName.POISSON) or scenario.rate_mhz is not None:
        _in_range("rate_mhz", scenario.rate_mhz or 0, LOWEST_RATE_MHZ, HIGHEST_RATE_MHZ)
    _check_frames(scenario, limits)
    if name is ScenarioName.TRACE and not scenario.trace_sha256:
        raise InvalidRunSpec("trace_sha256 is missing; scenario trace needs the digest of its recorded arrivals")
    if name is ScenarioName.STREAMS:
        _in_range("streams", scenario.streams or 0, 1, 64)
    if name is ScenarioName.IDLE_FIRE:
        _in_range("idle_gap_ns", scenario.idle_gap_ns or 0, 0, _HOUR_NS)
    if name is ScenarioName.SWEEP:
        _in_range("miss_ratio_ppm", scenario.miss_ratio_ppm or 0, 1, 1_000_000)
    if scenario.deadline_ns is not None and scenario.deadline_ns < 1:
        raise InvalidRunSpec(f"deadline_ns is {scenario.deadline_ns}; it must be above 0")
    if scenario.open_loop:
        _check_queue(scenario)
    _in_range("seed", scenario.seed, 0, 2**63 - 1)


def _check_frames(scenario: Scenario, limits: Limits) -> None:
    """What ends a launch: a number of frames or a time; a soak by its nature a time."""
    warmup, timed = scenario.warmup_frame_count, scenario.frame_count or 0
    if scenario.duration_ns is not None:
        _in_range("duration_ns", scenario.duration_ns, SECOND_NS, limits.run_duration_ns)
        timed = timed or max(1, scenario.duration_ns * (scenario.rate_mhz or 0) // 10**12)
    elif scenario.name is ScenarioName.SOAK:
        raise InvalidRunSpec("duration_ns is missing; scenario soak needs the length of its timed window")
    _in_range("frame_count", timed, 1, limits.frame_count)
    _in_range("warmup_frame_count", warmup, 0, limits.frame_count)
    streams = scenario.streams or 1
    words = "frame_count and warmup_frame_count together" + (" of all streams" if streams > 1 else "")
    _in_range(words, (timed + warmup) * streams, 1, limits.frame_count)


def _check_queue(scenario: Scenario) -> None:
    if scenario.queue_policy is None:
        raise InvalidRunSpec(f"queue_policy is missing; scenario {scenario.name.value} needs one where frames arrive")
    if scenario.queue_policy is not QueuePolicy.UNBOUNDED:
        _in_range("queue_depth", scenario.queue_depth or 0, 1, 1024)


def _check_launches(spec: RunSpec, limits: Limits) -> None:
    name = spec.scenario.name
    if spec.launches != 1 and name in (ScenarioName.SWEEP, ScenarioName.STREAMS):
        raise InvalidRunSpec(
            f"launches is {spec.launches}; it must be 1, as the launches of scenario {name.value} are its steps"
        )
    if spec.memory_limit_bytes is not None:
        floor = limits.memory_limit_floor_bytes or 1
        if spec.memory_limit_bytes < floor:
            raise InvalidRunSpec(
                f"memory_limit_bytes is {spec.memory_limit_bytes}; a worker without a model holds {floor} bytes here,"
                " give more"
            )
    _in_range("group_size", spec.group_size, 0, limits.queue_length)
    if len(spec.group_id) > _LONGEST_GROUP_ID:
        raise InvalidRunSpec(f"group_id has {len(spec.group_id)} characters; it may have {_LONGEST_GROUP_ID}")
    if bool(spec.group_id) != (spec.group_size > 0):
        raise InvalidRunSpec("group_id and group_size go together; give both, or leave both away")


def _in_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise InvalidRunSpec(f"{name} is {value}; it must lie between {lowest} and {highest}")
