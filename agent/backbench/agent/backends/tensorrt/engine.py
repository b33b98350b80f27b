"""A plan that is ready to run: named tensors, one stream, pinned memory, and events around each part of a frame."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.cuda.memory import DeviceMemory
from backbench.agent.backends.tensorrt import layers as layer_times
from backbench.agent.backends.tensorrt.logger import LogLines, make_logger
from backbench.agent.backends.tensorrt.module import Library, make_runtime
from backbench.agent.backends.tensorrt.options import EngineOptions
from backbench.agent.backends.tensorrt.plan import forget_plan, read_facts, read_plan
from backbench.agent.backends.tensorrt.tensors import OpenOutput, Output, Tensor, inputs_and_outputs, make_output
from backbench.domain.event import Layer
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TensorRtEngine:
    """One execution context on one stream of `memory`, which this closes. What TensorRT made is freed before that."""

    def __init__(self, library: Library, request: OpenRequest, options: EngineOptions, memory: DeviceMemory) -> None:
        self._library, self._request, self._options, self._memory = library, request, options, memory
        self._free_before = memory.mem_info()[0]
        self._lines = LogLines()
        self._logger = make_logger(library.module, self._lines)
        folder = Path(request.engine_path)
        self._built = read_facts(folder)
        self._plan_bytes = 0
        self._times = layer_times.LayerTimes()
        self._inference_count = 0
        self._engine = self._deserialized(folder)
        self._context = self._made_context()
        self._input, found = inputs_and_outputs(library, self._engine)
        self._set_shape()
        self._input_address = memory.alloc(self._input_bytes())
        self._address(self._input, self._input_address)
        self._outputs = [self._bound_output(tensor) for tensor in found]
        self._events = [memory.event() for _ in range(4)]
        self._slots: list[NDArray[np.float32]] = []
        self._sources: list[NDArray[np.float32]] = []
        self._staged = False
        self._compute: Callable[[], None] = self._enqueue
        self._graph = self._graph_words()

    @property
    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        on_dla = self._options.dla is not None
        copies = "through pinned host memory, copied there first" if self._staged else "from and to pinned host memory"
        return {
            **self._built,
            **self._memory.facts,
            "backend": "tensorrt-rtx" if self._library.is_rtx else "tensorrt",
            "backend_version": self._library.version,
            "providers": "DLA,TensorRT" if on_dla else "TensorRT",
            "precision": self._request.precision or "as-model",
            "transfers": f"{copies}, one copy each way a frame",
            "cuda_graph": self._graph,
            "input": f"{self._input.name} float32 {'x'.join(map(str, self._request.input_shape))}",
        }

    @property
    def output_names(self) -> Sequence[str]:
        """See `Engine.output_names`."""
        return [output.tensor.name for output in self._outputs]

    def bind(self, slots: Sequence[NDArray[np.float32]]) -> None:
        """Pin the buffers where they are; where the driver does not, each frame is copied into a pinned one first."""
        for slot in slots:
            if slot.shape != self._request.input_shape:
                raise WorkerFailure(
                    FailureReason.SHAPE_MISMATCH,
                    f"the engine is for {self._request.input_shape}, and the input is {slot.shape}; run it again",
                )
        self._slots = list(slots)
        pinned = [self._memory.pin(slot) for slot in slots]
        self._staged = not all(pinned)
        if self._staged:
            staging = self._memory.pinned(self._request.input_shape, "float32")
            self._sources = [staging] * len(self._slots)
        else:
            self._sources = self._slots

    def infer(self, slot: int) -> None:
        """See `Engine.infer`."""
        memory, events, source = self._memory, self._events, self._sources[slot]
        if self._staged:
            source[...] = self._slots[slot]
        try:
            memory.record(events[0])
            memory.copy_in(self._input_address, source)
            memory.record(events[1])
            self._compute()
            memory.record(events[2])
            for output in self._outputs:
                output.copy_out(memory)
            memory.record(events[3])
        except BaseException:
            self._drain()  # what was queued still reads the input, which the next frame writes
            raise
        memory.synchronise()
        if self._inference_count == 0 or self._request.profiled:
            self._after(self._inference_count)

    def spans(self) -> tuple[int, int, int]:
        """See `DeviceTimed.spans`."""
        elapsed_ns, (start, copied, computed, end) = self._memory.elapsed_ns, self._events
        return elapsed_ns(start, copied), elapsed_ns(copied, computed), elapsed_ns(computed, end)

    def outputs(self) -> Sequence[NDArray[np.generic]]:
        """See `Engine.outputs`."""
        return [output.array() for output in self._outputs]

    def layers(self) -> Sequence[Layer]:
        """See `Layered.layers`."""
        found = self._times.layers(layer_times.inspected(self._library.module, self._engine))
        if not found:
            raise WorkerFailure(
                FailureReason.BACKEND_UNAVAILABLE,
                f"{self._label} reported no layers; leave --layers out",
            )
        return found

    def memory_figures(self) -> Mapping[str, int]:
        """See `MemoryTold.memory_figures`."""
        for name in ("device_memory_size_v2", "device_memory_size"):
            size = getattr(self._engine, name, None)
            if size is not None:
                break
        figures = {"engine.file": self._plan_bytes, **self._memory.usage(self._free_before)}
        return figures if size is None else {**figures, "tensorrt.device_memory": int(size)}

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drain()
        self._compute = self._enqueue
        self._outputs.clear()
        del self._context, self._engine, self._runtime
        self._memory.close()

    @property
    def _label(self) -> str:
        return f"{self._library.label} {self._library.version}"

    def _deserialized(self, folder: Path) -> Any:
        self._runtime = make_runtime(self._library, self._logger, self._lines)
        if self._options.dla is not None:
            self._runtime.DLA_core = self._options.dla
        with read_plan(folder) as plan:
            self._plan_bytes = len(plan)
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            if not self._lines.lacks_memory():
                forget_plan(folder)
            remedy = "it was built for another version or GPU, or is damaged: run it again to rebuild it"
            raise self._lines.failure(
                f"{self._label} does not take the built engine", FailureReason.BACKEND_UNAVAILABLE, remedy
            )
        return engine

    def _made_context(self) -> Any:
        """The context; TensorRT for RTX captures its own CUDA graphs, and is told here."""
        if self._captures_itself:
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = self._library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            what = f"{self._label} makes no execution context"
            raise self._lines.failure(what, FailureReason.BACKEND_UNAVAILABLE, "run it again")
        if self._request.profiled:
            self._profiler = layer_times.make_profiler(self._library.module, self._times)
            context.profiler = self._profiler
            context.enqueue_emits_profile = False
        return context

    def _set_shape(self) -> None:
        shape = self._request.input_shape
        if not self._context.set_input_shape(self._input.name, shape):
            raise self._lines.failure(
                f"the engine does not take an input of {'x'.join(map(str, shape))}",
                FailureReason.SHAPE_MISMATCH,
                "choose another --size",
            )
        lacking = self._context.infer_shapes()
        if lacking:
            raise WorkerFailure(
                FailureReason.SHAPE_MISMATCH,
                f"the engine also wants {', '.join(lacking)}; export the model with the image as its only input",
            )

    def _input_bytes(self) -> int:
        return 4 * math.prod(self._request.input_shape)

    def _bound_output(self, tensor: Tensor) -> Output:
        output = make_output(self._library, self._context, tensor, self._memory)
        if isinstance(output, OpenOutput) and not self._context.set_output_allocator(tensor.name, output.allocator):
            raise self._refused(f'takes no allocator for "{tensor.name}"')
        self._address(tensor, output.address)
        return output

    def _address(self, tensor: Tensor, address: int) -> None:
        if not self._context.set_tensor_address(tensor.name, address):
            raise self._refused(f'takes no address for "{tensor.name}"')

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise self._refused("does not run the engine")

    def _drain(self) -> None:
        """Wait for what is queued, whatever has become of it."""
        with contextlib.suppress(WorkerFailure):
            self._memory.synchronise()

    def _refused(self, what: str) -> WorkerFailure:
        return self._lines.failure(f"{self._label} {what}", FailureReason.BACKEND_UNAVAILABLE, "run it again")

    @property
    def _captures_itself(self) -> bool:
        wanted = self._options.cuda_graph and not self._request.profiled
        return wanted and hasattr(self._library.module, "CudaGraphStrategy")

    def _graph_words(self) -> str:
        """What becomes of a wish for CUDA graphs, as a fact. Raises WorkerFailure where a model cannot be captured."""
        if not self._options.cuda_graph or self._request.profiled:
            return "no"
        if self._captures_itself:
            return f"asked of {self._library.label}: whole graph"
        if any(isinstance(output, OpenOutput) for output in self._outputs):
            raise WorkerFailure(
                FailureReason.SHAPE_MISMATCH,
                "no CUDA graph can be made of a model that finds the shapes of its outputs itself; leave --cuda-graph"
                " out",
            )
        return "compute, captured after the first inference"

    def _after(self, inference: int) -> None:
        """What follows the first inferences, and each one that is profiled."""
        self._inference_count = inference + 1
        if self._request.profiled:
            self._context.report_to_profiler()
            if inference == 0:  # it carries what is done only once
                self._times.clear()
        elif inference == 0 and self._options.cuda_graph and not self._captures_itself:
            try:
                self._compute = self._memory.capture(self._enqueue)
            except WorkerFailure as failure:
                raise WorkerFailure(
                    failure.reason, f"no CUDA graph can be made of this model ({failure}); leave --cuda-graph out"
                ) from failure
