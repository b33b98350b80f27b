"""What anybody would write for a GPU: one engine and one loop, timed from outside and by events. No part of Backbench.

It reads one JSON document on standard input: {"backend", "model", "plan", "folder", "half", "threads", "frames",
"warmup", "shape", "seed"}; it prints one: {"service_ns": [...], "spans_ns": {...} or null, "relative_error": {output:
error}}. CUDA is called through ctypes, by its driver's own names, so that no library that Backbench uses takes part.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_SPIN = 1
_INPUTS = 8
_KEPT: list[Any] = []
"""What must live as long as the process: a context is worth nothing without its engine."""


class Cuda:
    """The driver: every call is checked. Streams and events are handles."""

    def __init__(self, device: int = 0) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        number, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(number), device)
        # A context that is in use already keeps its flags.
        self._library.cuDevicePrimaryCtxSetFlags_v2(number, _SPIN)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
        self.call("cuCtxSetCurrent", context)
        self.stream = self._handle("cuStreamCreate", 1)

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise SystemExit(f"{name} failed with {status}")

    def event(self) -> ctypes.c_void_p:
        return self._handle("cuEventCreate", 0)

    def record(self, event: ctypes.c_void_p) -> None:
        self.call("cuEventRecord", event, self.stream)

    def elapsed_ns(self, start: ctypes.c_void_p, end: ctypes.c_void_p) -> int:
        length_ms = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(length_ms), start, end)
        return round(length_ms.value * 1e6)

    def alloc(self, size_bytes: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
        return address.value

    def pinned(self, shape: tuple[int, ...], kind: Any) -> Array:
        count = int(np.prod(shape))
        address, size = ctypes.c_void_p(), max(count * np.dtype(kind).itemsize, 1)
        self.call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        assert address.value is not None
        buffer = (ctypes.c_char * size).from_address(address.value)
        return np.frombuffer(buffer, kind, count).reshape(shape)

    def copy_in(self, address: int, source: Array) -> None:
        size = ctypes.c_size_t(source.nbytes)
        self.call(
            "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(source.ctypes.data), size, self.stream
        )

    def copy_out(self, target: Array, address: int) -> None:
        size = ctypes.c_size_t(target.nbytes)
        self.call(
            "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(target.ctypes.data), ctypes.c_uint64(address), size, self.stream
        )

    def synchronise(self) -> None:
        self.call("cuStreamSynchronize", self.stream)

    def _handle(self, name: str, flags: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call(name, ctypes.byref(handle), flags)
        return handle


def main() -> None:
    told = json.load(sys.stdin)
    generators = (np.random.Generator(np.random.PCG64([told["seed"], place])) for place in range(_INPUTS))
    tensors = [generator.standard_normal(told["shape"], np.float32) for generator in generators]
    stdout = sys.stdout
    sys.stdout = sys.stderr  # libraries print, too
    loop = _tensorrt if told["backend"] in ("tensorrt", "tensorrt-rtx") else _onnxruntime
    infer, spans, outputs = loop(told, tensors)
    services, parts = [], []
    for frame in range(told["warmup"] + told["frames"]):
        start = time.perf_counter_ns()
        infer(frame % _INPUTS)
        end = time.perf_counter_ns()
        if frame >= told["warmup"]:
            services.append(end - start)
            parts.append(spans())
    infer(0)
    errors = _errors(told["model"], tensors[0], outputs())
    names = ("host_to_device", "compute", "device_to_host")
    timed = dict(zip(names, map(list, zip(*parts, strict=True)), strict=True)) if parts and parts[0] else None
    json.dump({"service_ns": services, "spans_ns": timed, "relative_error": errors}, stdout)


Loop = tuple[Callable[[int], None], Callable[[], tuple[int, ...]], Callable[[], dict[str, Array]]]
"""An inference of an input, the three spans of the last one (none where they cannot be told), and its outputs."""


def _tensorrt(told: dict[str, Any], tensors: list[Array]) -> Loop:
    cuda = Cuda()
    trt = importlib.import_module("tensorrt" if told["backend"] == "tensorrt" else "tensorrt_rtx")
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(Path(told["plan"]).read_bytes())
    _KEPT.extend((runtime, engine))
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    (given,) = (name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    context.set_input_shape(given, tuple(told["shape"]))
    sources = [cuda.pinned(tensor.shape, np.float32) for tensor in tensors]
    for source, tensor in zip(sources, tensors, strict=True):
        source[...] = tensor
    address = cuda.alloc(sources[0].nbytes)
    context.set_tensor_address(given, address)
    results = {}
    for name in names:
        if name != given:
            target = cuda.pinned(tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
            results[name] = (target, cuda.alloc(target.nbytes))
            context.set_tensor_address(name, results[name][1])
    events = [cuda.event() for _ in range(4)]

    def infer(place: int) -> None:
        cuda.record(events[0])
        cuda.copy_in(address, sources[place])
        cuda.record(events[1])
        if not context.execute_async_v3(cuda.stream.value):
            raise SystemExit("execute_async_v3 gave False")
        cuda.record(events[2])
        for target, source in results.values():
            cuda.copy_out(target, source)
        cuda.record(events[3])
        cuda.synchronise()

    def spans() -> tuple[int, ...]:
        return tuple(cuda.elapsed_ns(events[place], events[place + 1]) for place in range(3))

    return infer, spans, lambda: {name: target.copy() for name, (target, _) in results.items()}


def _onnxruntime(told: dict[str, Any], tensors: list[Array]) -> Loop:
    import onnxruntime

    session = _session(onnxruntime, told)
    given = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    on_cpu = told["backend"] == "onnxruntime"
    if on_cpu:
        newest: list[Any] = []

        def infer(place: int) -> None:
            newest[:] = session.run(None, {given: tensors[place]})

        return infer, tuple, lambda: dict(zip(names, newest, strict=True))
    value = onnxruntime.OrtValue.ortvalue_from_numpy(tensors[0].copy(), "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(given, value)
    for name in names:
        binding.bind_output(name, "cpu")

    def infer_bound(place: int) -> None:
        value.update_inplace(tensors[place])
        session.run_with_iobinding(binding)

    return infer_bound, tuple, lambda: dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))


def _session(onnxruntime: Any, told: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = told["threads"]
    options.inter_op_num_threads = 1
    if told["backend"] == "onnxruntime":
        return onnxruntime.InferenceSession(told["model"], options, providers=["CPUExecutionProvider"])
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    provider: tuple[str, dict[str, str]] = ("CUDAExecutionProvider", {"device_id": "0"})
    if told["backend"] == "onnxruntime-tensorrt":
        engines = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": told["folder"]}
        provider = ("TensorrtExecutionProvider", {"device_id": "0", **engines})
        if told["half"]:
            provider[1]["trt_fp16_enable"] = "1"
    session = onnxruntime.InferenceSession(told["model"], options, providers=[provider], enable_fallback=False)
    if session.get_providers()[0] != provider[0]:  # it falls back without a word
        raise RuntimeError(f"ONNX Runtime opened {session.get_providers()[0]} instead of {provider[0]}")
    return session


def _errors(model: str, tensor: Array, outputs: dict[str, Array]) -> dict[str, float]:
    """By output, the largest difference from ONNX Runtime on the CPU over that one's largest number."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    right = dict(zip(names, session.run(None, {session.get_inputs()[0].name: tensor}), strict=True))
    errors = {}
    for name, value in right.items():
        wanted, found = value.astype(np.float64), outputs[name].astype(np.float64)
        largest = float(np.abs(wanted).max())
        errors[name] = float(np.abs(found - wanted).max()) / largest if largest else float(np.abs(found).max())
    return errors


if __name__ == "__main__":
    main()
