from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).parents[2]
ACCEPTED = ROOT / "tests/contract/backbench-v1.binpb"
BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")

pytestmark = pytest.mark.skipif(BUF is None, reason="buf is not installed (pip install buf-bin)")


def buf(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert BUF is not None
    return subprocess.run([BUF, *map(str, arguments)], check=False, capture_output=True, text=True)


def files_of(image: Path) -> dict[str, bytes]:
    files = FileDescriptorSet.FromString(image.read_bytes())
    # What buf adds to a descriptor (whether a file is an import) is no part of the contract.
    files.DiscardUnknownFields()
    return {file.name: file.SerializeToString(deterministic=True) for file in files.file}


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("*.py", "*.pyi")))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_contract_follows_the_rules_of_buf() -> None:
    result = buf("lint", ROOT / "protos")
    assert result.returncode == 0, result.stdout


def test_nothing_that_was_accepted_is_broken() -> None:
    result = buf("breaking", ROOT / "protos", "--against", ACCEPTED)
    assert result.returncode == 0, result.stdout


def test_every_addition_is_accepted_so_that_it_is_guarded_too(tmp_path: Path) -> None:
    built = buf("build", ROOT / "protos", "--exclude-source-info", "-o", tmp_path / "now.binpb")
    assert built.returncode == 0, built.stderr
    assert files_of(tmp_path / "now.binpb") == files_of(ACCEPTED), "run scripts/accept-protos"


def test_a_deleted_field_is_noticed(edited: Path) -> None:
    replace(edited / "backbench/v1/run.proto", "  // Images in one inference.\n  int32 batch = 5;\n", "")
    result = buf("breaking", edited, "--against", ACCEPTED)
    assert result.returncode == 100
    assert '"5" with name "batch"' in result.stdout


def test_a_changed_type_is_noticed(edited: Path) -> None:
    replace(edited / "backbench/v1/run.proto", "int32 batch = 5;", "string batch = 5;")
    assert buf("breaking", edited, "--against", ACCEPTED).returncode == 100


def test_a_renumbered_reason_is_noticed(edited: Path) -> None:
    replace(edited / "backbench/v1/error.proto", "ERROR_REASON_QUEUE_FULL = 80;", "ERROR_REASON_QUEUE_FULL = 89;")
    assert buf("breaking", edited, "--against", ACCEPTED).returncode == 100


def test_an_added_field_is_welcome(edited: Path) -> None:
    replace(
        edited / "backbench/v1/run.proto",
        "  int32 batch = 5;\n",
        "  int32 batch = 5;\n  // Something new.\n  int32 novelty = 999;\n",
    )
    assert buf("breaking", edited, "--against", ACCEPTED).returncode == 0


def test_a_field_without_a_comment_is_refused(edited: Path) -> None:
    replace(edited / "backbench/v1/run.proto", "  // Images in one inference.\n", "")
    result = buf("lint", edited)
    assert result.returncode == 100
    assert "batch" in result.stdout
