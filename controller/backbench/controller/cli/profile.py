"""`backbench profile`: models on a device, followed to the end, judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from backbench.controller.cli import profile_options as option
from backbench.controller.cli.options import DeviceName, Insecure, Json, NoWait, Strict, open_store

if TYPE_CHECKING:
    from backbench.controller.operations.plan import Plan, ProfileRequest
    from backbench.controller.store import Store


def profile(  # noqa: PLR0913, PLR0917
    context: typer.Context,
    models: option.Models,
    device: DeviceName,
    size: option.Size = None,
    batch: option.Batch = 1,
    inputs: option.Inputs = None,
    backends: option.BackendNames = None,
    threads: option.Threads = None,
    spin: option.Spin = True,
    dla: option.Dla = None,
    cuda_graph: option.CudaGraph = False,
    backend_option: option.BackendOptions = None,
    allow_fallback: option.AllowFallback = False,
    weights: option.Weights = None,
    precision: option.Precision = "as-model",
    target: option.Target = None,
    calibration: option.Calibration = None,
    postprocess: option.Postprocess = "none",
    scenario: option.Scenario = "closed-loop",
    frames: option.Frames = None,
    warmup: option.Warmup = 20,
    duration: option.Duration = None,
    fps: option.Fps = None,
    queue_policy: option.QueuePolicy = None,
    queue_depth: option.QueueDepth = None,
    deadline: option.Deadline = None,
    trace: option.Trace = None,
    streams: option.Streams = None,
    idle_gap: option.IdleGap = None,
    miss_ratio: option.MissRatio = None,
    seed: option.Seed = None,
    launches: option.Launches = 1,
    budgets: option.Budgets = None,
    memory_limit: option.MemoryLimit = None,
    telemetry_rate_hz: option.TelemetryRate = 10.0,
    sensor: option.Sensors = None,
    wait_cool: option.WaitCool = None,
    max_wait: option.MaxWait = None,
    regime: option.Regime = "as-shipped",
    set_clocks: option.SetClocks = False,
    memory_pass: option.MemoryPass = True,
    layers: option.Layers = False,
    timeout_s: option.Timeout = None,
    name: option.Name = "",
    priority: option.Priority = "interactive",
    detach: option.Detach = False,
    no_wait: NoWait = False,
    insecure: Insecure = False,
    strict: Strict = False,
    json: Json = False,
) -> int:
    """Measure models on a device and judge them by their budgets; with several backends, each by every backend.

    backbench profile resnet50 --device orin --size 224 --budget "p99<=30ms"
    """
    request = _request(locals())
    if detach:
        return _hand_over(context, request, wait=not no_wait, insecure=insecure, json=json)
    return _profile(context, request, wait=not no_wait, insecure=insecure, strict=strict, json=json)


def _request(given: Mapping[str, Any]) -> ProfileRequest:
    """What was written, by the names of the request's fields."""
    from backbench.controller.operations.backends import DEFAULT_BACKEND
    from backbench.controller.operations.plan import ProfileRequest

    words = {field.name: given[field.name] for field in dataclasses.fields(ProfileRequest) if field.name in given}
    lists = {name: tuple(given[name] or ()) for name in ("models", "budgets", "sensor", "backend_option")}
    lists["backends"] = tuple(given["backends"] or (DEFAULT_BACKEND,))
    return ProfileRequest(**{**words, **lists})


def _profile(
    context: typer.Context, request: ProfileRequest, *, wait: bool, insecure: bool, strict: bool, json: bool
) -> int:
    from backbench.controller.cli.interrupts import interrupts
    from backbench.controller.cli.progress import shown
    from backbench.controller.cli.runs import documents_of, print_runs
    from backbench.controller.cli.verdict import INTERRUPTED, status_of
    from backbench.controller.operations import profile
    from backbench.controller.operations.stop import Stop

    store = open_store(context)
    plan = _plan(store, request)
    stop = Stop()
    with interrupts(stop), shown() as observer:
        records = profile.profile(store, plan, observer, stop, insecure, wait=wait)
    documents = documents_of(records)
    if documents:  # none when an interrupt came before the first run
        print_runs(documents, json=json, several=plan.run_count > 1)
    return INTERRUPTED if stop.requested else status_of(documents, strict)


def _hand_over(context: typer.Context, request: ProfileRequest, *, wait: bool, insecure: bool, json: bool) -> int:
    from backbench.controller.cli.output import print_json, print_line
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations import profile
    from backbench.domain.errors import InvalidArgument

    if not wait:
        raise InvalidArgument("--detach never waits; leave --no-wait away")
    store = open_store(context)
    with shown() as observer:
        runs = profile.submit(store, _plan(store, request), observer, insecure)
    if json:
        rows = [
            {
                "run_id": run.spec.run_id,
                "model": run.spec.model.name,
                "backend": run.spec.backend.name,
                "size": [run.spec.height, run.spec.width],
                "state": run.state.value,
                "queue_position": run.queue_position,
            }
            for run in runs
        ]
        print_json({"schema": "backbench.submitted/1", "device": request.device, "runs": rows})
        return 0
    for run in runs:
        before = f", {run.queue_position} before it" if run.queue_position else ""
        what = f"{run.spec.model.name} by {run.spec.backend.name} on {request.device}"
        print_line(f"run {run.spec.run_id}: {what}, {run.state.value}{before}")
    print_line(f"watch: backbench run follow {runs[0].spec.run_id[-8:]}")
    print_line(f"fetch what is finished: backbench run collect --device {request.device}")
    return 0


def _plan(store: Store, request: ProfileRequest) -> Plan:
    from backbench.controller.operations.images import SYNTHETIC, synthetic_images
    from backbench.controller.operations.plan import plan_profile

    if (named := str(request.inputs or "")).startswith(SYNTHETIC):
        request = replace(request, inputs=synthetic_images(named.removeprefix(SYNTHETIC), store.root))
    return plan_profile(request)
