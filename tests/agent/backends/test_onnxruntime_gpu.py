"""ONNX Runtime on a GPU: what was asked for runs the whole model, or says in words what does not.

No GPU takes part. Sessions stand on `tests/fakes/fake_onnxruntime.py`, which plays recorded behaviours of the real
wheel for GPUs over the real library of the CPU; what the real CPU wheel says of itself stands on that wheel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as real
import pytest
from onnx import TensorProto, helper
from tests.fakes.fake_onnxruntime import CUDA, TENSORRT, Machine

from backbench.agent.backends.base import Buildable, Layered, MemoryTold, OpenRequest, Verified, WorkerFailure
from backbench.agent.backends.cuda.probe import Cuda
from backbench.agent.backends.onnxruntime import OnnxRuntimeCpu
from backbench.agent.backends.onnxruntime_gpu import GpuEngine, OnnxRuntimeCuda
from backbench.agent.backends.onnxruntime_tensorrt import OnnxRuntimeTensorRt, tensorrt_version
from backbench.domain.run import FailureReason

SHAPE = (1, 3, 4, 4)
GPU = Cuda(available=True, name="Some GPU", compute_capability=(8, 7), driver_version="13.0")
NO_GPU = Cuda(available=False, reason="no NVIDIA driver here")
MakeMachine = Callable[..., Machine]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Negates, then rounds."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("image", "output")]
    nodes = [helper.make_node("Neg", ["image"], ["less"]), helper.make_node("Floor", ["less"], ["output"])]
    graph = helper.make_graph(nodes, "negative", values[:1], values[1:])
    path = tmp_path / "negative.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeMachine:
    """Makes the machine that the library is on, with a GPU unless it is said otherwise."""

    def make(cuda: Cuda = GPU, **how: Any) -> Machine:
        made = Machine(tmp_path / "library", **how)
        monkeypatch.setitem(sys.modules, "onnxruntime", made.library())
        monkeypatch.setattr("backbench.agent.backends.cuda.probe.probe_cuda", lambda _: cuda)
        return made

    return make


def request(model: str, **changes: Any) -> OpenRequest:
    return OpenRequest(model, SHAPE, 1, spin=False, **changes)


def bound(engine: GpuEngine, *values: float) -> list[Any]:
    slots = [np.full(SHAPE, value, np.float32) for value in values]
    engine.bind(slots)
    return slots


def test_an_inference_reads_the_host_buffer_of_now_and_not_of_when_it_was_bound(
    machine: MakeMachine, model: str
) -> None:
    machine()
    with OnnxRuntimeCuda().open(request(model)) as engine:
        slots = bound(engine, 1.0, 2.0)
        for slot, value in ((0, -1.0), (1, -2.0), (0, -1.0)):
            engine.infer(slot)
            assert np.all(engine.outputs()[0] == value)
        slots[0][:] = 5.0
        engine.infer(0)
        assert np.all(engine.outputs()[0] == -5.0)
        engine.verify()
        assert engine.facts["partition"] == f"{CUDA} 2"
        assert engine.facts["providers"].startswith(CUDA)
        assert engine.facts["fallback"] == "not allowed"
        assert "pageable" in engine.facts["transfers"]


def test_a_model_that_the_provider_does_not_run_as_a_whole_is_refused_with_what_it_leaves(
    machine: MakeMachine, model: str
) -> None:
    machine(on_cpu=frozenset({"Floor"}))
    with pytest.raises(WorkerFailure, match="CPUExecutionProvider 1 \\(Floor\\); --allow-fallback") as caught:
        OnnxRuntimeCuda().open(request(model))
    assert caught.value.reason is FailureReason.BACKEND_UNAVAILABLE


def test_fallback_that_is_allowed_is_recorded(machine: MakeMachine, model: str) -> None:
    machine(on_cpu=frozenset({"Floor"}))
    with OnnxRuntimeCuda().open(request(model, allow_fallback=True)) as engine:
        bound(engine, 1.5)
        engine.infer(0)
        engine.verify()
        assert np.all(engine.outputs()[0] == -2.0)
        assert engine.facts["partition"] == "CPUExecutionProvider 1, CUDAExecutionProvider 1"
        assert engine.facts["fallback"] == "CPUExecutionProvider 1"
        assert engine.facts["backend"] == "onnxruntime-cuda"


def test_an_older_library_tells_its_partition_by_a_profile_of_the_first_inference(
    machine: MakeMachine, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    machine(tells_partition=False)
    with OnnxRuntimeCuda().open(request(model, allow_fallback=True)) as engine:
        bound(engine, 1.0)
        engine.infer(0)
        # The CPU plays the GPU, so the real profile names the CPU.
        assert engine.facts["partition"] == "CPUExecutionProvider 2"
        assert engine.facts["partition_from"] == "a profile of the first inference"
        engine.infer(0)
    assert not list(tmp_path.glob("nodes*"))


def test_a_session_that_left_its_provider_while_it_ran_is_found_out(machine: MakeMachine, model: str) -> None:
    machine(leaves_after_run=True)
    with OnnxRuntimeCuda().open(request(model)) as engine:
        bound(engine, 1.0)
        engine.infer(0)
        with pytest.raises(WorkerFailure, match="runs on CPUExecutionProvider and not on CUDA"):
            engine.verify()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"loads": False}, "libonnxruntime_providers_cuda.so.*pip install 'onnxruntime-gpu"),
        ({"session_error": "CUDA failure 35: CUDA driver version is insufficient"}, "update the NVIDIA driver"),
        ({"session_error": "CUDA failure 101: invalid device ordinal"}, "choose another device"),
    ],
)
def test_what_the_machine_lacks_is_said_with_the_remedy(
    machine: MakeMachine, model: str, how: dict[str, Any], words: str
) -> None:
    machine(**how)
    with pytest.raises(WorkerFailure, match=words) as caught:
        OnnxRuntimeCuda().open(request(model))
    assert caught.value.reason is FailureReason.BACKEND_UNAVAILABLE
    assert "\n" not in str(caught.value)
    described = OnnxRuntimeCuda().describe()
    assert not described.available
    assert "\n" not in described.reason


def test_fallback_is_of_nodes_and_not_of_a_provider_that_is_not_there(machine: MakeMachine, model: str) -> None:
    machine(loads=False)
    with pytest.raises(WorkerFailure, match="cannot be loaded"):
        OnnxRuntimeCuda().open(request(model, allow_fallback=True))


def test_a_gpu_for_which_there_are_no_kernels_is_found_out_by_running_one_operator(
    machine: MakeMachine, model: str
) -> None:
    machine(run_error="CUDA error cudaErrorNoKernelImageForDevice: no kernel image is available for execution")
    described = OnnxRuntimeCuda().describe()
    assert not described.available
    assert "built for this GPU; on a Jetson, the one for its JetPack" in described.reason
    engine = OnnxRuntimeCuda().open(request(model))
    bound(engine, 1.0)
    with pytest.raises(WorkerFailure, match="no kernel image"):
        engine.infer(0)


def test_a_model_that_the_library_refuses_is_no_matter_of_the_gpu(machine: MakeMachine, tmp_path: Path) -> None:
    machine()
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(WorkerFailure) as caught:
        OnnxRuntimeCuda().open(request(str(tmp_path / "broken.onnx")))
    assert caught.value.reason is FailureReason.INVALID_MODEL


def test_where_it_works_it_says_what_it_takes_and_prints_nothing(
    machine: MakeMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    described = OnnxRuntimeCuda().describe()
    assert (described.available, described.reason, described.providers) == (True, "", (CUDA,))
    assert described.options == ("cudnn-search", "device", "gpu-mem-limit")
    assert capsys.readouterr().out == ""


def test_without_a_gpu_it_is_listed_with_the_reason(machine: MakeMachine) -> None:
    machine(cuda=NO_GPU)
    for backend in (OnnxRuntimeCuda(), OnnxRuntimeTensorRt()):
        described = backend.describe()
        assert (described.available, described.reason) == (False, "no NVIDIA driver here")


def test_the_build_for_the_cpu_names_the_extra_that_brings_the_provider() -> None:
    assert real.get_device() == "CPU", "this test stands on the real wheel for the CPU"
    for backend in (OnnxRuntimeCuda(), OnnxRuntimeTensorRt()):
        reason = backend.describe().reason
        assert f"has no {backend.provider.name}" in reason
        assert "backbench[agent-gpu]" in reason


def test_two_distributions_that_overwrite_each_other_are_refused(machine: MakeMachine) -> None:
    folder = machine().folder
    for name in ("onnxruntime-1.32.0", "onnxruntime_gpu-1.31.1", "onnxruntime_extensions-0.14"):
        (folder / f"{name}.dist-info").mkdir()
    for backend in (OnnxRuntimeCpu(), OnnxRuntimeCuda(), OnnxRuntimeTensorRt()):
        assert "onnxruntime and onnxruntime-gpu are both installed" in backend.describe().reason
        with pytest.raises(WorkerFailure, match="uninstall both"):
            backend.load()


def test_options_reach_the_provider(machine: MakeMachine, model: str) -> None:
    made = machine()
    options = {"device": "0", "cudnn-search": "heuristic", "gpu-mem-limit": "2GB"}
    with OnnxRuntimeCuda().open(request(model, options=options)) as engine:
        assert "gpu_mem_limit=2000000000" in engine.facts["provider_options"]
    assert made.sessions[-1].options[CUDA] == {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": "2000000000",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "-1"}, "option device is a number"),
        ({"device": "first"}, "option device is a number"),
        ({"cudnn-search": "fast"}, "exhaustive or heuristic or default"),
        ({"gpu-mem-limit": "much"}, "option gpu-mem-limit is a size"),
        ({"gpu-mem-limit": "0MB"}, "option gpu-mem-limit is a size"),
        ({"fancy": "1"}, 'no option "fancy"'),
    ],
)
def test_an_option_that_it_does_not_take_is_named(
    machine: MakeMachine, model: str, options: dict[str, str], words: str
) -> None:
    machine()
    with pytest.raises(WorkerFailure, match=words) as caught:
        OnnxRuntimeCuda().open(request(model, options=options))
    assert caught.value.reason is FailureReason.INVALID_INPUT


def test_its_engines_are_all_that_the_worker_can_use() -> None:
    for protocol in (Layered, MemoryTold, Verified):
        assert issubclass(GpuEngine, protocol)
    assert isinstance(OnnxRuntimeTensorRt(), Buildable)
    assert not isinstance(OnnxRuntimeCuda(), Buildable)


def test_tensorrt_engines_are_kept_by_what_they_depend_on(machine: MakeMachine, model: str) -> None:
    machine()
    backend = OnnxRuntimeTensorRt()
    key = dict(backend.engine_key(request(model)))
    assert (key["gpu"], key["compute_capability"], key["precision"]) == ("Some GPU", "8.7", "as the model")
    assert backend.engine_key(request(model, precision="fp16")) != key
    assert backend.engine_key(request(model, allow_fallback=True)) != key


def test_tensorrt_builds_into_a_folder_and_opens_what_lies_there(
    machine: MakeMachine, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machine()
    built = tmp_path / "engine"
    opened = GpuEngine._opened

    def opening_builds(self: GpuEngine, options: Any) -> Any:
        (built / "graph_1_sm87.engine").touch(exist_ok=True)
        return opened(self, options)

    monkeypatch.setattr(GpuEngine, "_opened", opening_builds)
    backend = OnnxRuntimeTensorRt()
    counters = backend.build(request(model, precision="fp16", cache_folder=str(tmp_path)), built, lambda *_: None)
    assert counters == {"engine_count": 1}
    options = made.sessions[-1].options[TENSORRT]
    assert options["trt_engine_cache_path"] == str(built)
    assert options["trt_fp16_enable"] == "1"
    assert options["trt_timing_cache_path"] == str(tmp_path)

    monkeypatch.setattr(GpuEngine, "_opened", opened)
    with backend.open(request(model, engine_path=str(built))) as engine:
        bound(engine, 1.0)
        engine.infer(0)
        assert engine.facts["partition"] == f"{TENSORRT} 2"


def test_tensorrt_that_builds_again_while_it_is_opened_is_refused(
    machine: MakeMachine, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    opened = GpuEngine._opened

    def builds_another(self: GpuEngine, options: Any) -> Any:
        (tmp_path / "another.engine").touch()
        return opened(self, options)

    monkeypatch.setattr(GpuEngine, "_opened", builds_another)
    with pytest.raises(WorkerFailure, match="did not take the engine"):
        OnnxRuntimeTensorRt().open(request(model, engine_path=str(tmp_path)))


def test_tensorrt_that_takes_no_node_has_built_nothing(machine: MakeMachine, model: str, tmp_path: Path) -> None:
    machine()
    with pytest.raises(WorkerFailure, match="took no node") as caught:
        OnnxRuntimeTensorRt().build(request(model), tmp_path / "engine", lambda *_: None)
    assert caught.value.reason is FailureReason.ENGINE_BUILD_FAILED


def test_a_process_without_tensorrt_has_no_version_of_it(tmp_path: Path) -> None:
    assert tensorrt_version() == "unknown"
    (tmp_path / "maps").write_text("7f0-7f1 r-xp 0 fd:00 1 /opt/libnvinfer.so.10\n")
    assert tensorrt_version(tmp_path / "maps") == "unknown"
