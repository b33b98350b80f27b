"""What `scripts/environment` does, seen through a Python that only writes down what it was asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *"version_info[:2]"*) echo "${STUB_VERSION:-3.11}" ;;
  "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/has-pip ;;
  *"import pip"*) test -e .venv/has-pip ;;
  "-m pip install"*) exit "${PIP_STATUS:-0}" ;;
esac
"""


class Project:
    """A copy of the scripts in a folder of an awkward name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a project's folder"
        (self.folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/environment", self.folder / "scripts")
        (self.folder / "pyproject.toml").touch()
        os.utime(self.folder / "pyproject.toml", (1, 1))
        self.calls = folder / "calls"
        self.python = folder / "bin/python3"
        self.python.parent.mkdir()
        self.python.write_text(STUB)
        self.python.chmod(0o755)

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    def set_up(self, **variables: str) -> tuple[int, list[str], str]:
        """The exit status, what was made and installed, and what was said."""
        self.calls.write_text("")
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "CALLS": str(self.calls), **variables}
        command = ["sh", "-euc", ". scripts/environment; command -v python"]
        result = subprocess.run(command, cwd=self.folder, env=environment, check=False, capture_output=True, text=True)
        if result.returncode == 0:
            assert result.stdout.strip() == str(self.venv / "bin/python")
        asked = [line for line in self.calls.read_text().splitlines() if line.startswith("-m")]
        return result.returncode, [" ".join(line.split()[1:3]) for line in asked], result.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


EVERYTHING = ["venv --clear", "pip install"]


def test_the_first_use_makes_and_fills_the_venv_and_says_so(project: Project) -> None:
    status, done, said = project.set_up()
    assert (status, done) == (0, EVERYTHING)
    assert "making .venv with Python 3.11" in said
    assert "installing .[agent,controller,dev]" in said


def test_the_second_use_does_nothing(project: Project) -> None:
    project.set_up()
    assert project.set_up() == (0, [], "")


def test_a_changed_project_file_installs_again(project: Project) -> None:
    project.set_up()
    newer = (project.venv / ".installed").stat().st_mtime + 10
    os.utime(project.folder / "pyproject.toml", (newer, newer))
    assert project.set_up()[1] == ["pip install"]


def test_an_extra_that_is_missing_is_added_to_those_that_are_there(project: Project) -> None:
    project.set_up(BACKBENCH_EXTRAS="agent,controller")
    assert project.set_up(BACKBENCH_EXTRAS="agent")[1] == []
    assert "installing .[agent,controller,dev]" in project.set_up(BACKBENCH_EXTRAS="dev")[2]


def test_a_failed_installation_is_told_and_done_again(project: Project) -> None:
    assert project.set_up(PIP_STATUS="1")[0] == 1
    status, done, said = project.set_up()
    assert (status, done) == (0, ["pip install"])
    assert "the last installation was interrupted" in said
    assert "--ignore-installed" in project.calls.read_text()
    assert project.set_up()[1] == []


def test_a_venv_that_was_left_half_made_is_made_anew(project: Project) -> None:
    project.set_up()
    (project.venv / "has-pip").unlink()
    assert project.set_up()[1] == EVERYTHING


def test_a_venv_whose_python_is_gone_is_made_anew(project: Project) -> None:
    project.set_up()
    (project.venv / "bin/python").unlink()
    (project.venv / "bin/python").symlink_to("/nowhere/python3")
    assert project.set_up()[1] == EVERYTHING


def test_a_venv_that_came_with_a_copied_folder_is_made_anew(project: Project) -> None:
    project.set_up()
    project.folder = project.folder.rename(project.folder.with_name("moved"))
    assert project.set_up()[1] == EVERYTHING


def test_another_python_than_that_of_the_venv_is_refused_with_the_remedy(project: Project) -> None:
    project.set_up()
    (project.venv / "bin/python").write_text(STUB.replace("${STUB_VERSION:-3.11}", "3.11"))
    status, done, said = project.set_up(PYTHON=str(project.python), STUB_VERSION="3.13")
    assert (status, done) == (3, [])
    assert ".venv has Python 3.11, PYTHON is 3.13; remove .venv, or unset PYTHON" in said


def test_an_old_python_is_refused_with_the_remedy(project: Project) -> None:
    project.python.write_text("#!/bin/sh\nexit 1\n")
    status, done, said = project.set_up()
    assert (status, done) == (3, [])
    assert "needs Python 3.10 or newer; set PYTHON=" in said
    assert not project.venv.exists()


def test_a_script_that_another_one_calls_finds_everything_ready(project: Project) -> None:
    project.set_up()
    command = ". scripts/environment; : >\"$CALLS\"; sh -euc '. scripts/environment'"
    environment = {"PATH": f"{project.python.parent}{os.pathsep}{os.environ['PATH']}", "CALLS": str(project.calls)}
    subprocess.run(["sh", "-euc", command], cwd=project.folder, env=environment, check=True)
    assert project.calls.read_text() == ""
