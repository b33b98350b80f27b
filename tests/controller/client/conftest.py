"""A real agent in a process of its own, and servers that misbehave on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations.local_agent import local_agent
from backbench.v1 import device_pb2_grpc, run_pb2_grpc

Serve = Callable[..., str]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a real agent listens."""
    with local_agent(tmp_path_factory.mktemp("agent")) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[AgentClient]:
    with AgentClient(address) as client:
        yield client


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves device and run services on loopback; gives the address."""
    servers: list[grpc.Server] = []

    def start(
        devices: device_pb2_grpc.DeviceServiceServicer | None = None,
        runs: run_pb2_grpc.RunServiceServicer | None = None,
    ) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(4))
        if devices is not None:
            device_pb2_grpc.add_DeviceServiceServicer_to_server(devices, server)
        if runs is not None:
            run_pb2_grpc.add_RunServiceServicer_to_server(runs, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    """Three and a half chunks of bytes that no other test has."""
    path = tmp_path / "bytes.bin"
    path.write_bytes(str(tmp_path).encode() * (3_670_016 // len(str(tmp_path)) + 1))
    return path
