"""What this agent can carry out, checked before a run is taken."""

from __future__ import annotations

import math

from backbench.agent.sampler import MAX_RATE_HZ
from backbench.domain.artifact import is_sha256
from backbench.domain.device import Limits
from backbench.domain.errors import InvalidRunSpec
from backbench.domain.identifiers import is_run_id
from backbench.domain.run import SECOND_NS, RunSpec, ScenarioName

SCENARIOS = (ScenarioName.CLOSED_LOOP,)
"""Scenarios that this agent carries out."""
_SOURCES = ("skeleton", "export", "file")
_PRECISIONS = ("as-model", "fp32", "fp16", "int8")


def check_spec(spec: RunSpec, limits: Limits) -> None:
    """Raises InvalidRunSpec, naming the field and its range, for the first thing that cannot be carried out."""
    if not is_run_id(spec.run_id):
        raise InvalidRunSpec(f'run_id "{spec.run_id[:64]}" is not a UUIDv7 in lower case')
    _check_digests(spec)
    _check_choices(spec)
    frames = (spec.scenario.frame_count or 0) + spec.scenario.warmup_frame_count
    _in_range("height", spec.height, 1, 16384)
    _in_range("width", spec.width, 1, 16384)
    _in_range("batch", spec.batch, 1, 1024)
    _in_range("frame_count", spec.scenario.frame_count or 0, 1, limits.frame_count)
    _in_range("warmup_frame_count", spec.scenario.warmup_frame_count, 0, limits.frame_count)
    _in_range("frame_count and warmup_frame_count together", frames, 1, limits.frame_count)
    _in_range("launches", spec.launches, 1, 100)
    _in_range("threads", spec.backend.threads or 0, 0, 1024)
    _in_range("images", len(spec.inputs.images), 0, limits.image_count)
    _in_range("synthetic_count", spec.inputs.synthetic_count, 1, limits.image_count)
    _in_range("run_timeout_ns", spec.run_timeout_ns, SECOND_NS, limits.run_duration_ns)
    _in_range("stall_timeout_ns", spec.stall_timeout_ns, SECOND_NS, limits.run_duration_ns)
    if not 0 <= spec.telemetry_rate_hz <= MAX_RATE_HZ:
        raise InvalidRunSpec(
            f"telemetry_rate_hz is {spec.telemetry_rate_hz:g}; it must lie between 0 and {MAX_RATE_HZ:g}"
        )
    _check_preprocess(spec)


def _check_digests(spec: RunSpec) -> None:
    for sha256 in spec.artifacts:
        if not is_sha256(sha256):
            raise InvalidRunSpec(f'"{sha256[:64]}" is not a SHA-256 of 64 lower-case hex digits')


def _check_choices(spec: RunSpec) -> None:
    if spec.model.source not in _SOURCES:
        raise InvalidRunSpec(f'model source "{spec.model.source}" is none of {", ".join(_SOURCES)}')
    if spec.scenario.name not in SCENARIOS:
        known = ", ".join(name.value for name in SCENARIOS)
        raise InvalidRunSpec(f"this agent does not carry out {spec.scenario.name.value} yet; it does {known}")
    unsupported = {
        "layers_pass": spec.layers_pass,
        "memory_limit_bytes": spec.memory_limit_bytes,
        "wait_cool_mc": spec.wait_cool_mc,
        "duration_ns": spec.scenario.duration_ns,
        "regime locked": spec.regime not in ("", "as-shipped"),
        f"precision {spec.model.precision}": spec.model.precision not in _PRECISIONS,
    }
    for name, asked in unsupported.items():
        if asked:
            raise InvalidRunSpec(f"this agent does not carry out {name} yet; leave it away or update the agent")


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


def _in_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise InvalidRunSpec(f"{name} is {value}; it must lie between {lowest} and {highest}")
