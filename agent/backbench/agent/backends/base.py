"""What a backend is: something that can say whether it works here, and open a model.

To add one, write a module with a class that satisfies `Backend`, and add a line to `table.py`. Import the vendor's
library in `load`, never at the top: this package is imported on devices that do not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from backbench.domain.device import Backend as BackendDescription
from backbench.domain.event import Layer
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class WorkerFailure(Exception):
    """The run cannot go on, for a reason that its user can act on. The text is one line with the remedy."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Which model to open, and how: `input_shape` is (batch, 3, height, width), `threads` is at least 1.

    `precision` is empty where the model is executed as it is, and else one of the description's `engine_precisions`.
    `options` are some of those that the description names; their values are text that nobody has looked at yet.
    `engine_path` is what `Buildable.build` made of this model, "" for a backend that builds nothing. An engine that is
    `profiled` is opened for its layers' times alone: what it costs to take them is of no account. `cache_folder` is
    given to `Buildable.build`: what lies there makes the next build faster (a timing cache), and may be gone by then;
    it is "" everywhere else.
    """

    model_path: str
    input_shape: tuple[int, int, int, int]
    threads: int
    spin: bool
    precision: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    engine_path: str = ""
    profiled: bool = False
    cache_folder: str = ""


class Engine(Protocol):
    """A model that is ready to run. A context manager: leaving it frees everything."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What defines its latency: versions, providers, threads, shapes, transfers, synchronisation."""

    @property
    def output_names(self) -> Sequence[str]:
        """The names of what `outputs` gives, in the same order."""

    def bind(self, slots: Sequence[NDArray[np.float32]]) -> None:
        """Take input buffers, each of the opened shape; they stay where they are and are read at each `infer`.

        Raises WorkerFailure when the model does not take them.
        """

    def infer(self, slot: int) -> None:
        """One inference on the buffer of that slot; returns when the outputs are usable on the host."""

    def outputs(self) -> Sequence[NDArray[np.generic]]:
        """The newest outputs, overwritten by the next `infer`: copy them to keep them."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class DeviceTimed(Protocol):
    """An engine that can also tell the parts of an inference apart, from events on the device; nothing else needs this.

    An engine on CUDA records four events an inference: before and after each copy. They have come when `infer` returns,
    so `spans` only asks for the three times between them; it needs no more than the one set of events.
    """

    def spans(self) -> tuple[int, int, int]:
        """The newest inference's host-to-device, compute and device-to-host times in ns.

        Called once after each frame that was done, between its end and the next frame: its cost is in no span. Must
        not raise. -1 stands for a time that is not known. Each is between two events of the same inference: times
        against an event at the start of a run lose precision as the run goes on.
        """


@runtime_checkable
class Layered(Protocol):
    """An engine that can tell the times of its layers, when it was opened `profiled`."""

    def layers(self) -> Sequence[Layer]:
        """What each layer took, in the order of execution, over the inferences so far without the first one.

        Called once, after the last inference. Raises WorkerFailure where the library does not tell.
        """


@runtime_checkable
class MemoryTold(Protocol):
    """An engine that knows of memory that the process's own figures do not show: an accelerator's."""

    def memory_figures(self) -> Mapping[str, int]:
        """Bytes by the name of what they are; what cannot be told is left out. Must not raise.

        "cuda.used_delta" (what cudaMemGetInfo calls used, less what it was before the engine), "nvml.process",
        "nvmap.process", "tensorrt.device_memory" (the library's own figure), "engine.file".
        """


@runtime_checkable
class Verified(Protocol):
    """An engine that can be executed by something else than what was asked for."""

    def verify(self) -> None:
        """Look, after the last frame, at what executed it. Raises WorkerFailure where that is not what was asked."""


class Backend(Protocol):
    """One way of executing a model."""

    name: str

    def describe(self) -> BackendDescription:
        """Whether it works on this device; where not, what is missing and what brings it. Never raises."""

    def load(self) -> None:
        """Import the library, so that its cost is a phase of its own. Raises WorkerFailure when it is not there."""

    def open(self, request: OpenRequest) -> Engine:
        """Open a model. Raises WorkerFailure when the library refuses it."""


@runtime_checkable
class Buildable(Protocol):
    """A backend that makes an engine of a model before it opens it, which takes long and is worth keeping.

    The agent calls both in a process of its own, keeps what was built, and gives its path to `open`.
    """

    def engine_key(self, request: OpenRequest) -> Mapping[str, str]:
        """Everything but the model that an engine depends on, by name: an engine of another key is never opened.

        The library and its build, the GPU and its compute capability, precision, shapes, flags. Raises WorkerFailure
        where no engine can be built at all.
        """

    def build(
        self, request: OpenRequest, path: Path, progress: Callable[[str, int, int | None], None]
    ) -> Mapping[str, int]:
        """Write the engine to a path, as one file or as a folder; returns counters, such as layer_count.

        `progress` takes a stage in words, how much of it is done, and of how much (None: not known). The process is
        asked to end with SIGTERM and killed soon after. Raises WorkerFailure.
        """
