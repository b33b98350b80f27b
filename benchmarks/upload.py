"""Upload throughput beside a plain socket copy of the same file, both over loopback into a file."""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from agent_process import AgentProcess

from backbench.controller.client import AgentClient
from backbench.controller.push import Upload, push
from backbench.domain.artifact import ArtifactKind

_BYTES = 128 << 20
_ROUNDS = 5


def run() -> dict[str, object]:
    """Medians of interleaved rounds, their ratio, and what a second push of the same file sends."""
    uploads, copies, again = [], [], 0
    with tempfile.TemporaryDirectory() as folder, AgentProcess() as agent, AgentClient(agent.address) as client:
        path = Path(folder) / "artifact"
        for _ in range(_ROUNDS):
            path.write_bytes(os.urandom(1 << 20) * (_BYTES >> 20))
            start = time.perf_counter()
            (sha256,) = push(client, [Upload(path, ArtifactKind.MODEL, path.name)])
            uploads.append(time.perf_counter() - start)
            copies.append(_socket_copy(path, Path(folder) / "copy"))
            sent = [0]
            push(client, [Upload(path, ArtifactKind.MODEL, path.name)], lambda _, done, __: sent.append(done))  # noqa: B023
            again = max(again, *sent)
            client.delete_artifact(sha256)
    upload, copy = statistics.median(uploads), statistics.median(copies)
    return {
        "bytes": _BYTES,
        "upload_mb_per_s": _BYTES / upload / 1e6,
        "socket_copy_mb_per_s": _BYTES / copy / 1e6,
        "upload_over_copy": copy / upload,
        "bytes_sent_for_a_held_artifact": again,
    }


def _socket_copy(source: Path, destination: Path) -> float:
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver = threading.Thread(target=_receive, args=(server, destination))
        receiver.start()
        start = time.perf_counter()
        with socket.create_connection(server.getsockname()) as connection, source.open("rb") as file:
            connection.sendfile(file)
        receiver.join()
        return time.perf_counter() - start


def _receive(server: socket.socket, destination: Path) -> None:
    connection, _ = server.accept()
    with connection, destination.open("wb") as file:
        while data := connection.recv(1 << 20):
            file.write(data)
        os.fsync(file.fileno())  # as the agent does before an artifact becomes visible


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
