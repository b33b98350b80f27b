from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def stubs(folder: Path) -> dict[str, str]:
    files = (path for pattern in STUBS for path in folder.glob(pattern))
    return {path.name: path.read_text(encoding="utf-8") for path in files}


@pytest.mark.skipif(find_spec("grpc_tools") is None, reason="grpcio-tools is not installed")
def test_the_committed_stubs_are_those_that_the_pinned_generator_makes(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [ROOT / "scripts/regenerate-protos", tmp_path],
        check=True,
        env={**os.environ, "PATH": path, "BACKBENCH_READY": "yes"},
    )
    made, committed = stubs(tmp_path / "backbench/v1"), stubs(ROOT / "protos/backbench/v1")
    assert made
    differing = sorted(name for name in made.keys() | committed.keys() if made.get(name) != committed.get(name))
    assert not differing, "run scripts/regenerate-protos"


def test_every_message_file_has_its_stubs() -> None:
    made = stubs(ROOT / "protos/backbench/v1")
    for proto in (ROOT / "protos/backbench/v1").glob("*.proto"):
        wanted = {f"{proto.stem}_pb2.py", f"{proto.stem}_pb2.pyi"}
        if "\nservice " in proto.read_text(encoding="utf-8"):
            wanted |= {f"{proto.stem}_pb2_grpc.py", f"{proto.stem}_pb2_grpc.pyi"}
        assert wanted <= made.keys()
