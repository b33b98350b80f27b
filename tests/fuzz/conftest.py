"""A real agent over a real socket, with an artifact and a finished run, for calls of any kind."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.faults.processes import Agent
from tests.faults.scene import heavy_model

from backbench.controller.client import AgentClient
from backbench.domain.artifact import ArtifactKind
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import BackendSpec, InputSpec, ModelRef, RunSpec, Scenario
from backbench.v1 import run_pb2
from backbench.wire.mapping import to_message

EXAMPLES_VARIABLE = "BACKBENCH_FUZZ_EXAMPLES"


@dataclass(repr=False)
class Target:
    """An agent, a connection to it, and what it knows."""

    agent: Agent
    channel: grpc.Channel
    spec: RunSpec
    model: bytes

    def submission(self) -> run_pb2.SubmitRunRequest:
        """What the agent would take: a run that it has already."""
        return run_pb2.SubmitRunRequest(spec=to_message(self.spec, run_pb2.RunSpec()))

    def known(self) -> dict[str, tuple[Any, ...]]:
        """Values that lead somewhere, by the names of fields."""
        digests = (self.spec.model.sha256, hashlib.sha256(b"nothing").hexdigest())
        return {
            "run_id": (self.spec.run_id, new_run_id()), "sha256": digests, "reference_sha256": digests,
            "trace_sha256": digests, "name": ("onnxruntime", "tiny"), "source": ("file", "skeleton", "export"),
            "precision": ("as-model", "fp32"), "interpolation": ("bilinear",), "size_bytes": (1, 1 << 40),
        }  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    agent = Agent(folder)
    agent.start()
    model = folder / "tiny.onnx"
    heavy_model(model, seed=0, weight_bytes=1200)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    spec = RunSpec(
        new_run_id(), ModelRef("tiny", sha256, "file"), 32, 32, backend=BackendSpec("onnxruntime", threads=1),
        scenario=Scenario(frame_count=5, warmup_frame_count=0), inputs=InputSpec(synthetic_count=1), memory_pass=False,
    )  # fmt: skip
    with AgentClient(agent.address) as client:
        client.upload(model, sha256, ArtifactKind.MODEL, model.name)
        client.submit_run(spec)
        assert [event.event for event in client.watch_run(spec.run_id)]
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(agent.address, options) as channel:
        yield Target(agent, channel, spec, model.read_bytes())
    agent.end(signal.SIGTERM)


@pytest.fixture(autouse=True)
def serves_afterwards(target: Target) -> Iterator[None]:
    """After whatever a test sent, the agent is there, describes itself, and has met no mistake of its own."""
    yield
    assert target.agent.alive
    with AgentClient(target.agent.address, patience_s=10.0) as client:
        assert client.get_device().agent_version
    log = target.agent.log.read_text(errors="replace")
    assert "Traceback" not in log, log[-3000:]
    assert "mistake" not in log, log[-3000:]


def example_count(usual: int) -> int:
    """Examples a test: few, unless somebody asks for many."""
    return int(os.environ.get(EXAMPLES_VARIABLE) or usual)
