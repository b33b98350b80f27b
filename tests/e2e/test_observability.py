"""A real agent looked at from outside: its status, its health, its metrics."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from backbench.controller.client import AgentClient
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import RunNotFound
from backbench.domain.event import RunResult
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, Scenario
from backbench.wire.digest import sha256_of_file

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backbench.agent", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An agent with metrics on which a run has failed: its folder, its address, the port of the metrics."""
    folder = tmp_path_factory.mktemp("measured")
    arguments = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--artifact-quota", "1GB")
    process = subprocess.Popen(
        [sys.executable, "-m", "backbench.agent", "serve", "--data-dir", str(folder / "agent"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().removeprefix("listening on ").strip()
    port = process.stdout.readline().removeprefix("metrics on port ").partition(",")[0]
    model = folder / "no-model.onnx"
    model.write_bytes(b"no model" * 1000)
    with AgentClient(address) as client:
        sha256 = sha256_of_file(model)
        client.upload(model, sha256, ArtifactKind.MODEL, "no-model")
        spec = RunSpec(new_run_id(), ModelRef("no-model", sha256, "file"), 8, 8, scenario=Scenario(frame_count=5))
        client.submit_run(spec)
        *_, last = client.watch_run(spec.run_id)  # to the end of the stream: one that is hung up counts as cancelled
        assert isinstance(last.event, RunResult)
        with pytest.raises(RunNotFound):
            client.get_run(new_run_id())
    yield SimpleNamespace(data_dir=folder / "agent", address=address, port=port)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def metrics_of(agent: Any) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{agent.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    rows = (row.rpartition(" ") for row in text.splitlines() if not row.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def test_metrics_tell_what_the_agent_did_and_holds(measured: Any) -> None:
    found = metrics_of(measured)
    assert found['backbench_runs{state="failed"}'] == 1
    assert found['backbench_run_failures_total{reason="invalid_model"}'] == 1
    assert found["backbench_upload_bytes_total"] == found["backbench_artifact_bytes"] == 8000
    assert found["backbench_artifact_limit_bytes"] == 1e9
    assert found["backbench_queue_length"] == 0
    assert found["backbench_uncollected_runs"] == 1
    assert found["backbench_journal_bytes"] > 0
    assert found["backbench_agent_start_time_seconds"] > 1e9
    calls = {name: count for name, count in found.items() if name.startswith("backbench_rpc_calls_total")}
    assert calls['backbench_rpc_calls_total{code="OK",method="/backbench.v1.RunService/SubmitRun"}'] == 1
    assert calls['backbench_rpc_calls_total{code="NOT_FOUND",method="/backbench.v1.RunService/GetRun"}'] == 1
    assert calls['backbench_rpc_calls_total{code="OK",method="/backbench.v1.RunService/WatchRun"}'] == 1


def test_the_status_tells_it_too_to_people_and_to_programs(measured: Any) -> None:
    told = command("status", "--json", "--data-dir", str(measured.data_dir))
    assert (told.returncode, told.stderr) == (0, "")
    document = json.loads(told.stdout)
    assert document["schema"] == "backbench.agent-status/1"
    assert (document["listen"], document["tls"], document["fleets"]) == (measured.address, False, [])
    assert (document["running"], document["queued"], document["runs"]) == ([], [], {"failed": 1})
    assert document["uncollected_runs"] == 1
    assert document["artifact_bytes"] == {"used": 8000, "limit": 10**9}
    assert document["last_error"] is None
    text = command("status", "--data-dir", str(measured.data_dir)).stdout
    assert f"listens    {measured.address}, plain text\n" in text
    assert "runs       1 failed; 1 not collected\n" in text


def test_a_folder_without_an_agent_is_told_in_one_line(tmp_path: Path) -> None:
    told = command("status", "--data-dir", str(tmp_path))
    assert told.returncode == 3
    assert told.stdout == ""
    assert told.stderr.startswith(f"backbench-agent: error: no agent runs over {tmp_path}; ")
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--metrics-listen", "0.0.0.0:0"), 3, "refusing to serve metrics on 0.0.0.0:0 in plain text"),
        (("--metrics-listen", "here"), 2, '--metrics-listen "here" is not HOST:PORT'),
        (("--artifact-quota", "much"), 2, '--artifact-quota "much" is not a memory'),
        (("--artifact-quota", "0MB"), 2, '--artifact-quota "0MB" is no room at all'),
        (("--metrics-listen", "127.0.0.1:{taken}"), 3, "cannot serve metrics on 127.0.0.1:"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    arguments: tuple[str, str], status: int, words: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flag, value = arguments[0], arguments[1].format(taken=taken.getsockname()[1])
        told = command("serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), flag, value)
    assert told.returncode == status
    errors = [line for line in told.stderr.splitlines() if line.startswith("backbench-agent: error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in told.stderr


def test_prometheus_is_not_even_loaded_where_nobody_asked_for_metrics() -> None:
    script = "import sys, backbench.agent.server; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_every_service_is_serving_until_the_agent_begins_to_stop(agent: Any) -> None:
    with grpc.insecure_channel(agent.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", *(f"backbench.v1.{kind}Service" for kind in ("Artifact", "Device", "Run", "Security"))):
            assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30).status == SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            health.Check(health_pb2.HealthCheckRequest(service="another"), timeout=30)
        states = health.Watch(health_pb2.HealthCheckRequest(service="backbench.v1.RunService"), timeout=60)
        assert next(states).status == SERVING
        threading.Timer(0, agent.process.send_signal, (signal.SIGTERM,)).start()
        assert next(states).status == NOT_SERVING
