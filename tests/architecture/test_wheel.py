from __future__ import annotations

import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("agent", "controller", "models", "protos")
CODE = {".py", ".pyi", ".proto"}
DATA = {".bundle", ".toml", ".onnx", ".jpg", ".md", ".ini", ".mako", ".j2", ".html", ".css", ".js", ".sql"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    if find_spec("hatchling") is not None:
        command = ["hatchling", "build", "-t", "wheel", "-d", str(folder)]
    else:
        command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def installed(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if not name.endswith("/") and ".dist-info/" not in name}


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_six_packages_and_nothing_beside_them(wheel: zipfile.ZipFile) -> None:
    assert {tuple(name.split("/")[:2]) for name in installed(wheel)} == {
        ("backbench", package) for package in ("agent", "controller", "domain", "models", "v1", "wire")
    }


def test_the_wheel_holds_every_file_of_the_four_source_roots(wheel: zipfile.ZipFile, files: list[Path]) -> None:
    wanted = {
        path.relative_to(ROOT / root).as_posix()
        for root in SOURCE_ROOTS
        for path in files
        if ROOT / root / "backbench" in path.parents
    }
    assert installed(wheel) == wanted


def test_the_wheel_holds_code_and_known_kinds_of_data_alone(wheel: zipfile.ZipFile) -> None:
    odd = {name for name in installed(wheel) if Path(name).suffix not in CODE | DATA and Path(name).name != "py.typed"}
    assert not odd


def test_the_wheel_brings_recipes_skeletons_and_photographs(wheel: zipfile.ZipFile) -> None:
    names = installed(wheel)
    assert any(name.startswith("backbench/models/recipes/") and name.endswith(".toml") for name in names)
    assert any(name.startswith("backbench/models/") and name.endswith(".onnx") for name in names)
    assert sum(name.startswith("backbench/models/photos/") and name.endswith(".jpg") for name in names) == 8


def test_the_wheel_brings_its_licence_and_that_of_its_photographs(wheel: zipfile.ZipFile) -> None:
    assert "backbench/models/photos/README.md" in installed(wheel)
    (licence,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert b"Apache License" in wheel.read(licence)
    assert metadata(wheel)["License-Expression"] == "Apache-2.0"


def test_the_plain_wheel_depends_on_little(wheel: zipfile.ZipFile) -> None:
    plain = [line for line in metadata(wheel).get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(plain) <= 4


def test_the_wheel_brings_both_commands(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    assert "backbench = backbench.controller.__main__:main" in text
    assert "backbench-agent = backbench.agent.__main__:main" in text
