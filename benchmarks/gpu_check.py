"""Backbones by every backend of this machine's GPU: are the outputs right, the spans whole, the latency a bare loop's?

One run a model, backend and precision through a real agent on loopback, with its memory and layers; then rounds in
which a bare loop (`gpu_loop.py`) and a run take turns. Prints a row each, writes one JSON document, and ends with 0
where every check held, 1 where one did not, 3 where a run failed, 4 where no backend has a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_process import AgentProcess
from latency import ratio

from backbench.controller.analysis.latency import completed, timed
from backbench.controller.client import AgentClient
from backbench.controller.operations.devices import add_device
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.controller.operations.profile import profile
from backbench.controller.operations.stop import Stop
from backbench.controller.report.layers import layers_answer
from backbench.controller.store import Store
from backbench.domain.device import Backend, Device
from backbench.domain.errors import BackbenchError
from backbench.models.skeleton import materialise

SCHEMA = "backbench.gpu-check/1"
MODELS = ("resnet50", "mobilenetv3_large_100")
PRECISIONS = ("as-model", "fp16")
_CPU = "onnxruntime"
_DEVICE = "gpu-check"
_SPANS = ("preprocess", "host_to_device", "compute", "device_to_host", "postprocess")
_LAYERS = 10
_WARM_UP = 50
_LOOP_S = 600.0
_ROUNDING_NS = 1000
"""Events have a resolution of half a microsecond; so much may parts be longer than their whole."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    backends: tuple[str, ...]
    models: tuple[str, ...]
    precisions: tuple[str, ...]
    size: int
    frames: int
    rounds: int
    python: str
    to: Path


@dataclass(frozen=True)
class Case:
    """One model by one backend in one precision."""

    model: str
    backend: str
    precision: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    with AgentProcess(options.python) as agent, tempfile.TemporaryDirectory() as folder:
        with AgentClient(agent.address) as client:
            device = client.get_device()
        backends = chosen(device, options.backends)
        if not backends:
            print(f"gpu-check: nothing to check: {'; '.join(why_none(device, options.backends))}", file=sys.stderr)
            return 4
        with Store.open(Path(folder) / "store") as store:
            add_device(store, _DEVICE, agent.address)
            check = Check(options, store, agent, Path(folder))
            rows = [check.row(case) for case in cases(backends, options)]
    document = {"schema": SCHEMA, "machine": _machine(device), "backends": _backends(device), "rows": rows}
    options.to.parent.mkdir(parents=True, exist_ok=True)
    options.to.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written to {options.to}")
    return status_of(rows)


def chosen(device: Device, asked: Sequence[str]) -> list[Backend]:
    """The available ones of the backends that are asked for; without any, those of a GPU, and the CPU beside them."""
    there = [backend for backend in device.backends if backend.available and (not asked or backend.name in asked)]
    return there if asked or any(backend.name != _CPU for backend in there) else []


def why_none(device: Device, asked: Sequence[str]) -> list[str]:
    """A part of a sentence for each backend that could have been checked."""
    others = [backend for backend in device.backends if backend.name in asked or (not asked and backend.name != _CPU)]
    return [f"{backend.name}: {backend.reason}" for backend in others] or ["no backend of a GPU is known to the agent"]


def cases(backends: Sequence[Backend], options: Options) -> list[Case]:
    """Every model by every backend; in other precisions where a GPU's backend takes them."""
    return [
        Case(model, backend.name, precision)
        for model in options.models
        for backend in backends
        for precision in options.precisions
        if precision == "as-model"
        or (backend.name != _CPU and precision in (*backend.precisions, *backend.engine_precisions))
    ]


def status_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """The exit status."""
    if any(row["failure"] is not None for row in rows):
        return 3
    return 0 if all(all(row["checks"].values()) for row in rows) else 1


class Check:
    """Makes a row of each case."""

    def __init__(self, options: Options, store: Store, agent: AgentProcess, folder: Path) -> None:
        self._options = options
        self._store = store
        self._agent = agent
        self._folder = folder

    def row(self, case: Case) -> dict[str, Any]:
        """What came of a case; printed as a line, too."""
        row: dict[str, Any] = {"model": case.model, "backend": case.backend, "precision": case.precision}
        try:
            first = self._run(case, whole=True)
            row |= {"failure": first["failure"] and first["failure"]["message"]} | self._told(first)
            if row["failure"] is None:
                row["bare"] = self._beside_a_bare_loop(case, first)
                row["checks"] = checks_of(row)
        except (BackbenchError, RuntimeError) as error:
            row |= {"failure": " ".join(str(error).split())[-500:], "checks": {}}
        row.setdefault("checks", {})
        print(line_of(row), flush=True)
        return row

    def _run(self, case: Case, *, whole: bool) -> dict[str, Any]:
        request = ProfileRequest(
            (case.model,), _DEVICE, backends=(case.backend,), precision=case.precision, size=str(self._options.size),
            frames=self._options.frames, warmup=_WARM_UP, memory_pass=whole, layers=whole, telemetry_rate_hz=0.0,
        )  # fmt: skip
        (record,) = profile(self._store, plan_profile(request), Observer(), Stop())
        assert record.document is not None
        return record.document

    def _told(self, document: Mapping[str, Any]) -> dict[str, Any]:
        service = document["latency_ms"]["service"]
        layers = None
        if document["layers"] is not None:
            layers = layers_answer(document, self._store.layers(document["run_id"]), _LAYERS)
        return {
            "run_id": document["run_id"],
            "version": document["backend"]["version"],
            "p50_ms": _value(service, "p50"),
            "p99_ms": _value(service, "p99"),
            "throughput_fps": document["throughput_fps"],
            "spans": None if service is None else self._spans(document),
            "outputs": document["outputs"],
            "engine": document["engine"],
            "memory_mb": document["memory_mb"],
            "cold_start_ms": document["cold_start_ms"],
            "layers": layers,
            "validity": document["validity"],
            "contract": document["contract"],
        }

    def _spans(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Frame by frame: do the parts and what lies between them make up the service time?"""
        frames = self._store.frame_columns(document["run_id"])
        wanted = timed(frames) & completed(frames)
        frames = {name: column[wanted] for name, column in frames.items()}
        parts = {part: frames[f"{part}_ns"] for part in _SPANS if frames[f"{part}_ns"].count()}
        service = frames["done_ns"] - frames["dequeued_ns"]
        gap = service - sum(parts.values())
        return {
            "mean_ms": {name: float(part.mean()) / 1e6 for name, part in parts.items()},
            "host_gap_ms": float(gap.mean()) / 1e6,
            "service_ms": float(service.mean()) / 1e6,
            "smallest_gap_ns": int(gap.min()),
            "frames": int(gap.count()),
        }

    def _beside_a_bare_loop(self, case: Case, document: Mapping[str, Any]) -> dict[str, Any]:
        """The loop and a run by turns, each in a fresh process; the p50 of the loop and the ratio to it."""
        told = self._loop_of(case, document)
        reported, bare, last = [], [], {}
        for turn in range(self._options.rounds):
            run = document if turn == 0 else self._run(case, whole=False)
            last = self._loop(told)
            value = _value(run["latency_ms"]["service"], "p50")
            if value is None:
                raise RuntimeError("the run has no p50; give it more --frames")
            reported.append(value)
            bare.append(_percentile(last["service_ns"], 0.5) / 1e6)
        spans = last["spans_ns"]
        return {
            "p50_ms": statistics.median(bare),
            "p50_ms_each": bare,
            "reported_p50_ms_each": reported,
            "spans_p50_ms": spans and {name: _percentile(lengths, 0.5) / 1e6 for name, lengths in spans.items()},
            "reported_over_bare": ratio(reported, bare) if len(bare) > 1 else {"value": reported[0] / bare[0]},
            "relative_error_to_cpu": last["relative_error"],
        }

    def _loop_of(self, case: Case, document: Mapping[str, Any]) -> dict[str, Any]:
        """What the loop is told: the very model, and the very engine, that the agent has."""
        engine, sha256 = document["engine"] or {}, document["model"]["artifact"]
        # ONNX Runtime's engines of TensorRT are found by the name of the model's file.
        model = self._folder / sha256 / (engine.get("key") or {}).get("model_file", "model.onnx")
        if not model.exists():
            model.parent.mkdir(exist_ok=True)
            artifact = self._agent.data_dir / "artifacts" / sha256
            materialise(artifact, model, batch=1, height=self._options.size, width=self._options.size)
        kept = self._agent.data_dir / "engines" / (engine.get("digest") or "none") / "engine"
        folder = self._folder / "engine"  # a copy: a session may write into its folder
        shutil.rmtree(folder, ignore_errors=True)
        if kept.is_dir():
            shutil.copytree(kept, folder)
        return {
            "backend": case.backend,
            "model": str(model),
            "plan": str(folder / "model.plan"),
            "folder": str(folder),
            "half": engine.get("precision") == "fp16",
            "threads": int(document["contract"].get("threads", "1")),
            "frames": self._options.frames,
            "warmup": _WARM_UP,
            "shape": [1, 3, self._options.size, self._options.size],
            "seed": 0,
        }

    def _loop(self, told: Mapping[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [self._options.python, str(Path(__file__).with_name("gpu_loop.py"))],
            input=json.dumps(told), capture_output=True, text=True, timeout=_LOOP_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"the bare loop ended with {done.returncode}: {done.stderr[-400:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def checks_of(row: Mapping[str, Any]) -> dict[str, bool]:
    """What must hold; how close the latency is to the bare loop's is told and not judged."""
    spans, outputs, layers = row["spans"], row["outputs"], row["layers"]
    tolerance = max((check["tolerance"] for check in outputs["checks"]), default=0.0) if outputs else 0.0
    errors = row["bare"]["relative_error_to_cpu"].values()
    return {
        "outputs are the reference's": outputs is not None and outputs["passed"],
        "outputs are those of ONNX Runtime on the CPU": all(error <= tolerance for error in errors),
        # The gap is what the parts leave of the service time: that is wrong only where they leave less than nothing.
        "parts and host gap make up the service time": spans["smallest_gap_ns"] >= -_ROUNDING_NS,
        "layers have times": layers is not None and layers["total_ms"] > 0,
    }


def line_of(row: Mapping[str, Any]) -> str:
    """One line for people."""
    what = f"{row['model']:24} {row['backend']:22} {row['precision']:9}"
    if row["failure"] is not None:
        return f"{what} failed: {row['failure']}"
    spans, bare = row["spans"], row["bare"]
    parts = " + ".join(f"{name} {value:.3f}" for name, value in spans["mean_ms"].items())
    broken = [name for name, held in row["checks"].items() if not held]
    return (
        f"{what} p50 {row['p50_ms']:.3f} ms, {bare['reported_over_bare']['value']:.3f} of a bare loop's;"
        f" {parts} + host gap {spans['host_gap_ms']:.3f} = {spans['service_ms']:.3f} ms;"
        f" error {max(bare['relative_error_to_cpu'].values(), default=0.0):.1e};"
        f" {'NOT: ' + ', '.join(broken) if broken else 'all checks hold'}"
    )


def _value(span: Mapping[str, Any] | None, name: str) -> float | None:
    return None if span is None or span[name] is None else float(span[name]["value"])


def _percentile(values: Sequence[int], quantile: float) -> int:
    return sorted(values)[math.ceil(len(values) * quantile) - 1]


def _machine(device: Device) -> dict[str, Any]:
    """What the agent says of the device, and NVIDIA's tool where there is one."""
    identity = device.identity
    return {
        "board": identity.board or None,
        "soc": identity.soc or None,
        "machine": identity.machine,
        "cpu_count": identity.cpu_count,
        "os": identity.os,
        "kernel": identity.kernel,
        "jetpack": identity.jetpack or None,
        "conditions": dict(identity.conditions),
        "python": platform.python_version(),
        "gpus": _nvidia_smi(),
    }


def _nvidia_smi() -> list[str] | None:
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()


def _backends(device: Device) -> list[dict[str, Any]]:
    names = ("name", "available", "version", "reason", "providers", "precisions", "engine_precisions", "options")
    return [{name: getattr(backend, name) for name in names} for backend in device.backends]


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backend", action="append", default=[], help="this one alone, even the CPU's; repeatable")
    parser.add_argument("--model", action="append", default=[], help=f"default: {', '.join(MODELS)}; repeatable")
    parser.add_argument("--precision", action="append", default=[], help="default: as-model and fp16; repeatable")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="in which a bare loop and a run take turns")
    parser.add_argument("--agent-python", default=sys.executable, help="of the environment that has the agent")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/gpu-check.json"), metavar="FILE")
    told = parser.parse_args(arguments)
    return Options(
        backends=tuple(told.backend),
        models=tuple(told.model) or MODELS,
        precisions=tuple(told.precision) or PRECISIONS,
        size=told.size,
        frames=told.frames,
        rounds=max(1, told.rounds),
        python=told.agent_python,
        to=told.json,
    )


if __name__ == "__main__":
    sys.exit(main())
