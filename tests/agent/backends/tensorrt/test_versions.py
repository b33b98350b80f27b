"""What each version of TensorRT is asked for, and whether the double is like it.

Stands on the real bindings of TensorRT 8.6, 10.3, 10.13 and 11.4 over stub libraries, and on the real `tensorrt-rtx`;
each is skipped where it cannot be had. None of them makes a builder or a runtime here.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from tests.agent.backends.tensorrt.real_modules import real_facts
from tests.fakes import fake_tensorrt

import backbench.agent.backends.tensorrt

_SOURCES = Path(backbench.agent.backends.tensorrt.__path__[0])
_OWN = {"model", "log", "head", "shapes", "profiles", "data", "made_with"}
"""What the double's classes tell each other, and the real ones do not have."""
_TOUCHED = {
    "Builder": ("create_builder_config", "create_network", "create_optimization_profile", "build_serialized_network",
                "num_DLA_cores"),
    "BuilderFlag": ("GPU_FALLBACK",),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "DataType": ("FLOAT",),
    "DeviceType": ("DLA",),
    "EngineInspector": ("get_engine_information",),
    "IBuilderConfig": ("add_optimization_profile", "builder_optimization_level", "can_run_on_DLA",
                       "create_timing_cache", "default_device_type", "DLA_core", "get_timing_cache",
                       "profiling_verbosity", "progress_monitor", "set_flag", "set_memory_pool_limit",
                       "set_timing_cache"),
    "ICudaEngine": ("create_engine_inspector", "create_execution_context", "create_runtime_config",
                    "get_tensor_dtype", "get_tensor_location", "get_tensor_mode", "get_tensor_name", "num_io_tensors"),
    "IExecutionContext": ("enqueue_emits_profile", "execute_async_v3", "get_max_output_size", "get_tensor_shape",
                          "infer_shapes", "profiler", "report_to_profiler", "set_input_shape", "set_output_allocator",
                          "set_tensor_address"),
    "INetworkDefinition": ("get_input", "get_layer", "num_inputs", "num_layers", "num_outputs"),
    "IOptimizationProfile": ("set_shape",),
    "IRuntimeConfig": ("cuda_graph_strategy",),
    "ITimingCache": ("serialize",),
    "LayerInformationFormat": ("JSON",),
    "LayerType": ("QUANTIZE", "DEQUANTIZE"),
    "MemoryPoolType": ("WORKSPACE",),
    "OnnxParser": ("get_error", "num_errors", "parse_from_file"),
    "ParserError": ("desc", "node", "node_name", "node_operator"),
    "ProfilingVerbosity": ("DETAILED",),
    "Runtime": ("deserialize_cuda_engine", "DLA_core", "num_DLA_cores"),
    "TensorIOMode": ("INPUT",),
    "TensorLocation": ("HOST",),
}  # fmt: skip
"""All that the backend touches of TensorRT, by class; what a version lacks of it is looked for before it is used."""
_EVERYBODYS = {
    "__init__",
    "update",
    "name",
    "shape",
    "dtype",
    "type",
    "get_output",
    "num_outputs",
    "nbytes",
    "clear",
    "lines",
    "value",
    "version",
}
"""Names that objects of others have as well: of TensorRT's tensors, layers and plans, and of Python's own."""


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_the_double_has_what_the_real_one_has(version: str) -> None:
    real = real_facts(version)
    assert real["version"] == version
    absent = fake_tensorrt.ABSENT[version]
    for kind in fake_tensorrt.CLASSES:
        name = kind.__name__
        if name in absent:
            assert name not in real["classes"]
            continue
        for member, parameters in _members(kind).items():
            present = member in real["classes"][name]
            assert present == (f"{name}.{member}" not in absent), f"{name}.{member} of {version}"
            overloads = real["classes"][name].get(member, [])
            if parameters and overloads and (name, member) != ("ICudaEngine", "create_execution_context"):
                assert parameters in overloads, f"{name}.{member} of {version}"


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_everything_touched_is_in_the_real_one_or_known_to_be_absent(version: str) -> None:
    real, absent = real_facts(version)["classes"], fake_tensorrt.ABSENT[version]
    for name, members in _TOUCHED.items():
        if name in absent:
            continue
        known = {member for member in members if f"{name}.{member}" in absent}
        assert set(members) - set(real[name]) <= known, f"{name} of {version}"


def test_nothing_else_of_tensorrt_is_touched() -> None:
    real = real_facts("1.7.1.116")["classes"]
    kinds = {kind.__name__ for kind in fake_tensorrt.CLASSES} | {"BuilderFlag", "NetworkDefinitionCreationFlag"}
    theirs = {member for kind in kinds for member in real[kind]} - _EVERYBODYS
    touched = set()
    for path in _SOURCES.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        touched |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & theirs
    listed = {member for members in _TOUCHED.values() for member in members}
    assert touched == listed & theirs


def test_each_version_is_asked_for_what_it_can() -> None:
    precisions = {version: tuple(real_facts(version)["engine_precisions"]) for version in fake_tensorrt.VERSIONS}
    assert precisions == {
        "8.6.1": ("fp16",),
        "10.3.0": ("fp16", "bf16"),
        "10.13.2.6": ("fp16", "bf16"),
        "11.4.0.106": (),
        "1.7.1.116": (),
    }


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_a_network_has_the_models_own_types_wherever_that_can_be_said(version: str) -> None:
    real = real_facts(version)
    flags = real["network_flags"]
    policy = real["policies"][""]
    if version == "8.6.1":
        assert policy == {"strongly_typed": False, "network_flags": 1 << flags["EXPLICIT_BATCH"]}
    else:
        assert policy["strongly_typed"]
        assert policy["network_flags"] & 1 << flags["STRONGLY_TYPED"]
    assert real["on_dla"]["strongly_typed"] == (version in ("11.4.0.106", "1.7.1.116"))


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_is_a_flag_or_a_refusal_with_the_remedy(version: str, precision: str) -> None:
    real = real_facts(version)
    policy = real["policies"][precision]
    if precision in real["engine_precisions"]:
        assert not policy["strongly_typed"]
    else:
        assert policy.startswith(f"engine_build_failed: TensorRT {version} has no {precision} flag")
        assert f"backbench export ... --precision {precision}" in policy
    assert real["policies"]["fp4"].startswith('engine_build_failed: precision "fp4" is none of')


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_what_tensorrt_calls_back_is_heard(version: str) -> None:
    lines, times, told = real_facts(version)["heard"]
    assert lines == ["a line of two"]
    assert times == [500_000]
    assert told == ([] if version == "8.6.1" else [["stage", 0, 2], ["stage", 2, 2], False])


@pytest.mark.parametrize("version", [version for version in fake_tensorrt.VERSIONS if version != "1.7.1.116"])
def test_a_library_that_makes_no_builder_is_a_typed_failure(version: str) -> None:
    assert real_facts(version)["build"].startswith(f"backend_unavailable: TensorRT {version} makes no builder: ")


def _members(kind: Any) -> dict[str, list[str]]:
    """The double's attributes; of its methods, the names of the parameters."""
    if hasattr(kind, "__members__"):
        return {name: [] for name in kind.__members__}
    members = {name: value for name, value in vars(kind).items() if not name.startswith("_") and name not in _OWN}
    found = {name: _parameters(value) if inspect.isfunction(value) else [] for name, value in members.items()}
    made = re.findall(r"self\.([a-zA-Z]\w*)(?:: [\w .|]+)? = ", inspect.getsource(kind))
    return found | {name: [] for name in made if name not in _OWN}


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]
