"""Building and running by TensorRT's calls. Stands on the double of `tensorrt` and the host's memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.agent.backends.tensorrt import small_models
from tests.fakes.fake_tensorrt import VERSIONS, module_of
from tests.fakes.fake_tensorrt_types import Faults
from tests.fakes.host_memory import HostMemory

from backbench.agent.backends.base import DeviceTimed, Layered, MemoryTold, OpenRequest, WorkerFailure
from backbench.agent.backends.tensorrt.builder import build_plan
from backbench.agent.backends.tensorrt.engine import TensorRtEngine
from backbench.agent.backends.tensorrt.module import Library
from backbench.agent.backends.tensorrt.options import engine_options
from backbench.agent.backends.tensorrt.plan import read_facts, write_plan
from backbench.domain.event import Layer
from backbench.domain.run import FailureReason

_RTX = VERSIONS[-1]


class Bench:
    """A version of TensorRT, a GPU that is the host, and a folder."""

    def __init__(self, folder: Path, version: str = "10.3.0", **of_module: Any) -> None:
        self.folder = folder
        self.memory = HostMemory(pins=of_module.pop("pins", True))
        module = module_of(version, self.memory.enqueue, self.memory.drain, **of_module)
        self.library = Library(module, "TensorRT", is_rtx=version == _RTX)
        self.double = module.double

    def request(self, data: bytes, shape: tuple[int, int, int, int] = small_models.SHAPE, **asked: Any) -> OpenRequest:
        engine = str(self.folder / "engine")
        return OpenRequest(small_models.written(self.folder, data), shape, 1, False, engine_path=engine, **asked)

    def build(self, request: OpenRequest, timings: Path | None = None) -> dict[str, int]:
        built = build_plan(self.library, request, engine_options(request.options), timings, lambda *_: None)
        write_plan(Path(request.engine_path), built.plan, built.facts)
        return built.counters

    def open(self, request: OpenRequest) -> TensorRtEngine:
        return TensorRtEngine(self.library, request, engine_options(request.options), self.memory)

    def engine(
        self, data: bytes, shape: tuple[int, int, int, int] = small_models.SHAPE, **asked: Any
    ) -> TensorRtEngine:
        request = self.request(data, shape, **asked)
        self.build(request)
        return self.open(request)


def _images(count: int = 2, shape: tuple[int, int, int, int] = small_models.SHAPE) -> list[Any]:
    return [np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, np.float32) for seed in range(count)]


def _expected(data: bytes, image: Any) -> Any:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def _assert_close(engine: TensorRtEngine, data: bytes, image: Any) -> None:
    found: Any = engine.outputs()[0]
    np.testing.assert_allclose(found, _expected(data, image), rtol=1e-6)


def _refused(call: Callable[[], object]) -> str:
    with pytest.raises(WorkerFailure) as refused:
        call()
    assert "\n" not in str(refused.value)
    return f"{refused.value.reason.value}: {refused.value}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pins", [True, False])
def test_the_outputs_are_those_of_the_newest_inference(tmp_path: Path, version: str, pins: bool) -> None:
    data, images = small_models.convolution(), _images()
    with Bench(tmp_path, version, pins=pins).engine(data) as engine:
        engine.bind(images)
        for slot in (0, 1, 0):
            engine.infer(slot)
            _assert_close(engine, data, images[slot])
        assert engine.output_names == ["output"]
        assert ("copied there first" in engine.facts["transfers"]) == (not pins)


def test_what_is_written_into_a_slot_later_is_read_then(tmp_path: Path) -> None:
    data, images = small_models.convolution(), _images(1)
    with Bench(tmp_path).engine(data) as engine:
        engine.bind(images)
        engine.infer(0)
        images[0][...] = 2.0
        engine.infer(0)
        _assert_close(engine, data, images[0])


def test_the_spans_are_the_copies_and_what_is_between_them(tmp_path: Path) -> None:
    with Bench(tmp_path).engine(small_models.convolution()) as engine:
        engine.bind(_images())
        engine.infer(0)
        assert isinstance(engine, DeviceTimed)
        # By the double's clock each queued step takes 1 us, and so does the recording of the event behind it.
        assert engine.spans() == (2000, 2000, 2000)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_open_size_runs_at_the_size_that_it_was_built_for(tmp_path: Path, version: str) -> None:
    data, shape = small_models.convolution(("n", 3, "h", "w")), (2, 3, 8, 24)
    image = _images(1, shape)[0]
    with Bench(tmp_path, version).engine(data, shape) as engine:
        engine.bind([image])
        engine.infer(0)
        _assert_close(engine, data, image)
    bench = Bench(tmp_path, version)
    other = OpenRequest("", (1, 3, 8, 24), 1, False, engine_path=str(tmp_path / "engine"))
    assert _refused(lambda: bench.open(other)).startswith(
        "shape_mismatch: the engine does not take an input of 1x3x8x24"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_an_output_whose_shape_the_model_finds_is_copied_as_long_as_it_is(tmp_path: Path, version: str) -> None:
    data, image = small_models.found_places(), np.zeros(small_models.SHAPE, np.float32)
    bench = Bench(tmp_path, version)
    with bench.engine(data) as engine:
        engine.bind([image])
        for count in (3, 5, 0):
            image[...] = 0
            image.ravel()[:count] = 1
            engine.infer(0)
            np.testing.assert_array_equal(engine.outputs()[0], _expected(data, image))
            assert engine.outputs()[0].shape == (4, count)
        assert bench.memory.copied_out_bytes == 4 * 5 * 8


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cuda_graph_is_asked_for_and_recorded(tmp_path: Path, version: str) -> None:
    data, images, bench = small_models.convolution(), _images(), Bench(tmp_path, version)
    with bench.engine(data, options={"cuda-graph": "yes"}) as engine:
        engine.bind(images)
        for slot in (0, 1):
            engine.infer(slot)
            _assert_close(engine, data, images[slot])
        by_itself = version == _RTX
        engine.infer(0)
        assert bench.double.faults.calls["execute_async_v3"] == (3 if by_itself else 2)
        assert engine.facts["cuda_graph"].startswith("asked of TensorRT" if by_itself else "compute, captured")


def test_no_graph_is_made_of_outputs_that_the_model_finds(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    words = _refused(lambda: bench.engine(small_models.found_places(), options={"cuda-graph": "yes"}))
    assert "leave --cuda-graph out" in words


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_are_the_means_of_all_inferences_but_the_first(tmp_path: Path, version: str) -> None:
    with Bench(tmp_path, version).engine(small_models.convolution(), profiled=True) as engine:
        assert isinstance(engine, Layered)
        engine.bind(_images())
        for _ in range(4):
            engine.infer(0)
        assert engine.layers() == (
            Layer("conv", "conv", "TensorRT", 250_000, 3),
            Layer("act", "relu", "TensorRT", 500_000, 3),
            Layer("mean", "globalaveragepool", "TensorRT", 750_000, 3),
        )


def test_an_engine_that_is_not_profiled_has_no_layers_to_tell(tmp_path: Path) -> None:
    with Bench(tmp_path).engine(small_models.convolution()) as engine:
        engine.bind(_images())
        engine.infer(0)
        assert _refused(engine.layers).startswith("backend_unavailable: TensorRT 10.3.0 reported no layers")


@pytest.mark.parametrize("version", VERSIONS)
def test_memory_is_told_by_what_each_figure_is(tmp_path: Path, version: str) -> None:
    with Bench(tmp_path, version).engine(small_models.convolution()) as engine:
        assert isinstance(engine, MemoryTold)
        figures = engine.memory_figures()
        assert figures["tensorrt.device_memory"] == 4096
        assert figures["engine.file"] == (tmp_path / "engine" / "model.plan").stat().st_size
        assert figures["cuda.used_delta"] >= 4 * 3 * 16 * 16


@pytest.mark.parametrize(("call", "place"), [("execute_async_v3", 3), ("execute_async_v3", 1)])
def test_a_call_that_gives_false_fails_its_frame_in_tensorrts_words(tmp_path: Path, call: str, place: int) -> None:
    faults = Faults({call: place}, "the double has no more of it")
    with Bench(tmp_path, faults=faults).engine(small_models.convolution()) as engine:
        engine.bind(_images())
        for _ in range(place - 1):
            engine.infer(0)
        words = _refused(lambda: engine.infer(0))
        assert words.startswith(
            "backend_unavailable: TensorRT 10.3.0 does not run the engine: the double has no more of it"
        )
        engine.infer(1)


def test_a_frame_that_failed_leaves_nothing_queued_that_reads_the_next_ones_input(tmp_path: Path) -> None:
    bench = Bench(tmp_path, faults=Faults({"execute_async_v3": 1}, "why"))
    with bench.engine(small_models.convolution()) as engine:
        engine.bind(_images())
        _refused(lambda: engine.infer(0))
        assert bench.memory.waiting == 0


def test_a_graph_that_cannot_be_captured_says_how_to_do_without(tmp_path: Path) -> None:
    bench = Bench(tmp_path, faults=Faults({"execute_async_v3": 2}, "why"))
    with bench.engine(small_models.convolution(), options={"cuda-graph": "yes"}) as engine:
        engine.bind(_images())
        assert _refused(lambda: engine.infer(0)).endswith("leave --cuda-graph out")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("deserialize_cuda_engine", "does not take the built engine: why; it was built for another version or GPU"),
        ("create_execution_context", "makes no execution context: why"),
        ("set_input_shape", "does not take an input of 1x3x16x16: why"),
        ("set_tensor_address", 'takes no address for "image": why'),
    ],
)
def test_a_call_that_fails_while_opening_says_why(tmp_path: Path, call: str, words: str) -> None:
    bench = Bench(tmp_path, faults=Faults({call: 1}, "why"))
    assert words in _refused(lambda: bench.engine(small_models.convolution()))


def test_a_lack_of_memory_is_told_apart(tmp_path: Path) -> None:
    faults = Faults(
        {"create_execution_context": 1}, "Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)"
    )
    words = _refused(lambda: Bench(tmp_path, faults=faults).engine(small_models.convolution()))
    assert words.startswith("out_of_memory: TensorRT 10.3.0 makes no execution context: Error Code 2")
    faults = Faults({"build_serialized_network": 1}, "Error Code 2: OutOfMemory (no further information)")
    bench = Bench(tmp_path, faults=faults)
    assert _refused(lambda: bench.build(bench.request(small_models.convolution()))).startswith("out_of_memory: ")


@pytest.mark.parametrize("other", [{"version": "11.4.0.106"}, {"gpu": "sm_110"}])
def test_an_engine_of_another_version_or_gpu_is_refused_with_the_remedy(tmp_path: Path, other: dict[str, str]) -> None:
    request = Bench(tmp_path).request(small_models.convolution())
    Bench(tmp_path).build(request)
    words = _refused(lambda: Bench(tmp_path, **other).open(request))
    assert words.startswith("backend_unavailable: ")
    assert "the engine is of" in words
    assert "run it again to rebuild it" in words


@pytest.mark.parametrize("name", ["model.plan", "facts.json"])
@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_a_damaged_engine_is_refused_with_the_remedy(tmp_path: Path, name: str, content: bytes | None) -> None:
    bench = Bench(tmp_path)
    request = bench.request(small_models.convolution())
    bench.build(request)
    (tmp_path / "engine" / name).unlink()
    if content is not None:
        (tmp_path / "engine" / name).write_bytes(content)
    words = _refused(lambda: bench.open(request))
    assert words.startswith("backend_unavailable: ")
    assert "run it again to rebuild it" in words


@pytest.mark.parametrize(
    ("version", "data", "asked", "policy"),
    [
        ("8.6.1", small_models.convolution(), "", "no flags: fp32, TF32 where the GPU has it"),
        ("8.6.1", small_models.convolution(), "fp16", "flags FP16"),
        ("8.6.1", small_models.half(), "", "flags FP16"),
        ("8.6.1", small_models.quantized(), "", "flags INT8"),
        ("8.6.1", small_models.quantized(), "fp16", "flags FP16 INT8"),
        ("10.3.0", small_models.convolution(), "", "strongly typed: the model's own types"),
        ("10.3.0", small_models.convolution(), "bf16", "flags BF16"),
        ("10.13.2.6", small_models.quantized(), "fp16", "flags FP16 INT8"),
        ("10.13.2.6", small_models.quantized(), "int8", "strongly typed: the model's own types"),
        ("11.4.0.106", small_models.half(), "", "strongly typed: the model's own types"),
        ("11.4.0.106", small_models.quantized(), "int8", "strongly typed: the model's own types"),
    ],
)
def test_each_version_builds_by_its_own_means(
    tmp_path: Path, version: str, data: bytes, asked: str, policy: str
) -> None:
    bench = Bench(tmp_path, version)
    request = bench.request(data, precision=asked)
    bench.build(request)
    assert read_facts(tmp_path / "engine")["precision_policy"] == policy


def test_int8_of_a_model_without_scales_is_refused_by_every_version(tmp_path: Path) -> None:
    for version in VERSIONS:
        bench = Bench(tmp_path, version)
        request = bench.request(small_models.convolution(), precision="int8")
        assert _refused(lambda: bench.build(request)).startswith("invalid_model: int8 was asked for")  # noqa: B023


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_operator_is_named_by_every_version(tmp_path: Path, version: str) -> None:
    bench = Bench(tmp_path, version)
    words = _refused(lambda: bench.build(bench.request(small_models.convolution(operator="Fancy"))))
    where = "(node 1)" if version == "8.6.1" else "operator Fancy (node act)"
    assert f"{where}: no importer for this operator" in words


def test_layers_that_dla_does_not_run_are_listed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, dla_core_count=2)
    request = bench.request(small_models.half(), options={"dla": "1"}, precision="fp16")
    counters = bench.build(request)
    assert (counters["dla_layer_count"], counters["dla_fallback_layer_count"]) == (1, 3)
    with bench.open(request) as engine:
        assert engine.facts["dla"] == "1"
        assert engine.facts["dla_fallback"] == "narrow (CAST), mean (REDUCE), widen (CAST)"
        assert engine.facts["providers"] == "DLA,TensorRT"
    with bench.open(bench.request(small_models.half(), options={"dla": "1"}, profiled=True)) as engine:
        engine.bind(_images())
        engine.infer(0)
        engine.infer(0)
        assert {layer.name: layer.provider for layer in engine.layers()}["conv"] == "DLA"


def test_a_core_that_is_not_there_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, dla_core_count=2)
    request = bench.request(small_models.convolution(), options={"dla": "2"})
    assert "leave --dla out or choose from 0 to 1" in _refused(lambda: bench.build(request))


def test_a_model_of_which_dla_runs_nothing_is_refused_unless_falling_back_is_allowed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, dla_core_count=1)
    request = bench.request(small_models.found_places(), options={"dla": "0"})
    assert "can run none of the model's layers" in _refused(lambda: bench.build(request))
    allowed = bench.request(small_models.found_places(), options={"dla": "0"}, allow_fallback=True)
    assert bench.build(allowed)["dla_layer_count"] == 0


def test_timings_are_kept_for_the_next_build_and_begun_anew_when_they_do_not_fit(tmp_path: Path) -> None:
    timings = tmp_path / "timings" / "cache"

    def state(version: str) -> str:
        bench = Bench(tmp_path, version)
        request = bench.request(small_models.convolution())
        return build_plan(bench.library, request, engine_options({}), timings, lambda *_: None).facts["timing_cache"]

    assert [state("10.3.0"), state("10.3.0"), state("11.4.0.106"), state("11.4.0.106")] == [
        "begun", "used", "begun", "used",
    ]  # fmt: skip
    timings.write_bytes(b"damaged")
    assert state("11.4.0.106") == "begun"
    assert state(_RTX) == "none"


def test_a_wrong_shape_of_a_buffer_is_refused(tmp_path: Path) -> None:
    with Bench(tmp_path).engine(small_models.convolution()) as engine:
        assert "the input is (1, 3, 8, 8)" in _refused(lambda: engine.bind(_images(1, (1, 3, 8, 8))))


def test_leaving_an_engine_closes_its_memory(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.engine(small_models.convolution()):
        assert not bench.memory.closed
    assert bench.memory.closed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dla": "-1"}, "option dla is a number from 0 to 15"),
        ({"workspace": "much"}, 'option workspace is a size like "512MB" or "2GB"'),
        ({"workspace": "0GB"}, "option workspace"),
        ({"sync": "maybe"}, "option sync is spin or blocking"),
        ({"cuda-library": "cupy"}, "option cuda-library is pycuda or cuda-bindings"),
        ({"optimization-level": "9"}, "option optimization-level is a number from 0 to 5"),
        ({"speed": "high"}, 'no option "speed"; there are cuda-graph'),
    ],
)
def test_an_option_that_is_none_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(WorkerFailure, match=words) as refused:
        engine_options(options)
    assert refused.value.reason is FailureReason.INVALID_INPUT


def test_options_are_read() -> None:
    read = engine_options(
        {"workspace": "2gb", "dla": "1", "optimization-level": "4", "timing-cache": "no", "device": "1"}
    )
    assert (read.workspace_bytes, read.dla, read.optimization_level) == (2 << 30, 1, 4)
    assert (read.timing_cache, read.device, read.cuda_graph, read.sync) == (False, 1, False, "spin")
