"""What a worker is told (one JSON document on standard input) and what it answers (one JSON document a line)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backbench.domain.preprocess import Preprocess


@dataclass(frozen=True, slots=True)
class Job:
    """One worker's work: which model, what is fed, how many frames, and for what ("timed", "memory" or "layers").

    `arrivals` is "closed-loop" (back to back), "constant" (at `rate_mhz`), "poisson" (at that mean rate, from
    `schedule_seed`), "trace" (the recorded arrivals in `trace_path`) or "idle" (each frame `idle_gap_ns` after the one
    before it ended). `duration_ns` ends the timed window earlier than `frame_count` does. A `gated` worker waits before
    its timed window for a line on standard input. The worker holds itself to `memory_limit_bytes`, unless the agent
    says with `memory_limit_held_by` that something else does so. `reference_path` is a file of reference outputs that
    the model's are compared with; None for no comparison. `precision`, `options`, `allow_fallback` and `engine_path`
    are those of the backend's `OpenRequest`.
    """

    purpose: str
    model_path: str
    height: int
    width: int
    batch: int
    backend: str
    threads: int
    spin: bool
    image_paths: tuple[str, ...]
    image_names: tuple[str, ...]
    preprocess: Preprocess
    seed: int
    synthetic_count: int
    warmup_frame_count: int
    frame_count: int
    spawned_ns: int
    parent_pid: int
    schedule_seed: int = 0
    arrivals: str = "closed-loop"
    duration_ns: int | None = None
    rate_mhz: int | None = None
    trace_path: str | None = None
    queue_policy: str = "latest"
    queue_depth: int = 1
    idle_gap_ns: int = 0
    postprocess: str = ""
    gated: bool = False
    memory_limit_bytes: int | None = None
    memory_limit_held_by: str = ""
    table_descriptor: int | None = None
    reference_path: str | None = None
    precision: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    engine_path: str = ""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def job_from_json(text: str) -> Job:
    """The job in one line of JSON."""
    fields: dict[str, Any] = json.loads(text)
    values = fields.pop("preprocess")
    preprocess = Preprocess(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
    fields.update({name: tuple(fields[name]) for name in ("image_paths", "image_names")})
    return Job(preprocess=preprocess, **fields)
