"""The examples in CONTRIBUTING.md are executed as they stand, and held against the interfaces that they explain."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from backbench.agent.backends import base as backends
from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.sensors import base as sensors
from backbench.agent.sensors.trees import LiveTree, RootTree
from backbench.domain.run import FailureReason
from backbench.domain.telemetry import UNITS

ROOT = Path(__file__).parents[2]
SOURCE = "Add a source of telemetry"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    (body,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    return str(body)


def examples(title: str) -> list[tuple[str, str]]:
    return re.findall(r"```python\n# (\S+\.py)\n(.*?)```", section(title), flags=re.DOTALL)


def module_from(title: str, folder: Path) -> ModuleType:
    ((path, code),) = examples(title)
    assert (ROOT / path).parent.is_dir(), f"{path}: there is no such folder"
    file = folder / Path(path).name
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"contributing_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def members(protocol: type) -> set[str]:
    own = {name for name in vars(protocol) if not name.startswith("_") or name in ("__enter__", "__exit__")}
    return own | set(typing.get_type_hints(protocol))


def assert_it_satisfies(cls: type, protocol: type) -> None:
    for name in members(protocol):
        assert hasattr(cls, name), f"{cls.__name__} lacks {name}"
        wanted = getattr(protocol, name, None)
        if inspect.isfunction(wanted):
            given = inspect.signature(getattr(cls, name))
            assert list(given.parameters) == list(inspect.signature(wanted).parameters)


@pytest.fixture
def reference(tmp_path: Path) -> Any:
    return module_from("Add a backend", tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    shape = [1, 3, 2, 2]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["features"])],
        "one_node",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    return path


def test_the_backend_of_the_example_has_the_shape_of_one(reference: Any) -> None:
    assert_it_satisfies(reference.Reference, backends.Backend)
    assert_it_satisfies(reference.ReferenceEngine, backends.Engine)


def test_the_backend_of_the_example_describes_itself(reference: Any) -> None:
    described = reference.Reference().describe()
    assert (described.name, described.available, described.reason) == ("reference", True, "")
    assert described.version


def test_the_backend_of_the_example_runs_a_model(reference: Any, model: Path) -> None:
    np = pytest.importorskip("numpy")
    backend = reference.Reference()
    backend.load()
    slots = [np.full((1, 3, 2, 2), value, dtype=np.float32) for value in (-1.0, 2.0)]
    with backend.open(OpenRequest(str(model), (1, 3, 2, 2), threads=1, spin=False)) as engine:
        engine.bind(slots)
        engine.infer(1)
        assert engine.outputs()[0].max() == 2.0
        slots[0][:] = 5.0
        engine.infer(0)
        assert engine.outputs()[0].min() == 5.0
        assert engine.facts["input"] == "float32 1x3x2x2"
        assert engine.output_names == ["features"]
        assert all(isinstance(value, str) and value for value in engine.facts.values())


def test_the_backend_of_the_example_refuses_what_is_no_model(reference: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(WorkerFailure) as caught:
        reference.Reference().open(OpenRequest(str(broken), (1, 3, 2, 2), threads=1, spin=False))
    assert caught.value.reason is FailureReason.INVALID_MODEL


def test_the_source_of_the_example_reads_what_the_kernel_says(tmp_path: Path) -> None:
    module: Any = module_from(SOURCE, tmp_path)
    assert_it_satisfies(module.Batteries, sensors.Source)
    assert module.Batteries(RootTree(tmp_path)).probe().reason == "no battery here"
    file = tmp_path / "sys/class/power_supply/BAT0/capacity"
    file.parent.mkdir(parents=True)
    file.write_text("87\n")
    source = module.Batteries(RootTree(tmp_path))
    (channel,) = source.probe().channels
    assert channel.unit in UNITS
    assert source.read() == {"battery.bat0": 870}
    file.write_text("nonsense")
    assert source.read() == {channel.name: sensors.Unread("EILSEQ")}
    file.unlink()
    assert source.read() == {channel.name: sensors.Unread("ENOENT")}


def test_the_source_of_the_example_works_on_this_machine(tmp_path: Path) -> None:
    module: Any = module_from(SOURCE, tmp_path)
    source = module.Batteries(LiveTree())
    assert {channel.name for channel in source.probe().channels} == source.read().keys()


@pytest.mark.parametrize("title", ["Add a backend", SOURCE])
def test_the_lines_for_the_tables_name_a_class_of_the_example(title: str, tmp_path: Path) -> None:
    ((name, cls),) = re.findall(r'```\n    "(\w+)": (\w+),\n```', section(title))
    assert getattr(module_from(title, tmp_path), cls).name == name
    (table,) = set(re.findall(r"\(([\w/]+/table\.py)\)", section(title)))
    assert re.search(r"^[A-Z]+: dict\[str, ", (ROOT / table).read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("title", ["Add a backend", SOURCE])
def test_an_example_passes_the_style_of_the_project(title: str) -> None:
    ((path, code),) = examples(title)
    for command in (["check"], ["format", "--check"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(ROOT / path), "-"]
        result = subprocess.run(arguments, cwd=ROOT, input=code, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
