"""What a process has given up once it is isolated, asked in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, os, resource, socket, sys
from backbench.agent.isolation import isolate
held = isolate(1 << 16)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
names = ("CORE", "NOFILE", "NPROC", "FSIZE")
found = {
    "held": held.split(","),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "umask": os.umask(0),
    "limits": {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names},
    "interfaces": [name for _, name in socket.if_nameindex()],
    "user": os.geteuid(),
}
with socket.socket() as probe:
    probe.settimeout(5)
    try:
        probe.connect(("127.0.0.1", int(sys.argv[1])))
        found["connected"] = True
    except OSError:
        found["connected"] = False
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def isolated() -> dict[str, Any]:
    """What the process found, beside a port of this machine's loopback that answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-c", SCRIPT, str(listening.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_gains_no_privileges_and_keeps_to_its_limits(isolated: dict[str, Any]) -> None:
    assert {"no_new_privs", "rlimits"} <= set(isolated["held"])
    assert isolated["no_new_privs"] == "1"
    assert isolated["umask"] == 0o077
    limits = isolated["limits"]
    assert limits["CORE"][1] <= 1
    assert 64 <= limits["NOFILE"][1] <= 1024
    assert limits["FSIZE"] == [1 << 16, 1 << 16]


def test_it_reaches_nobody_where_it_says_so(isolated: dict[str, Any]) -> None:
    assert isolated["connected"] != ("network" in isolated["held"])
    if "network" in isolated["held"]:
        assert isolated["interfaces"] == ["lo"]


def test_it_is_the_user_that_it_was(isolated: dict[str, Any]) -> None:
    assert isolated["user"] == os.geteuid()


def test_a_file_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys\nfrom backbench.agent.isolation import isolate\n"
        "isolate(100)\npathlib.Path(sys.argv[1]).write_bytes(bytes(101))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "File too large" in done.stderr
    assert (tmp_path / "file").stat().st_size <= 100
