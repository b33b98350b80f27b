"""The repository as the tests of its shape see it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_NOT_OURS = {".git", "__pycache__", "node_modules", "dist", "build", "agent-data"}


def _from_git() -> list[Path] | None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return None
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    if listed.returncode:
        return None
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def _from_disk() -> list[Path]:
    def ours(path: Path) -> bool:
        parts = path.relative_to(ROOT).parts
        hidden = (part.startswith(".") and part not in (".ci", ".github") for part in parts[:-1])
        return not (_NOT_OURS & set(parts) or any(hidden) or path.suffix == ".pyc")

    return [path for path in ROOT.rglob("*") if path.is_file() and ours(path)]


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """Every file of the repository: what git knows or would add, or what lies there where there is no git."""
    listed = _from_git()
    return sorted(path for path in (_from_disk() if listed is None else listed) if path.is_file())
