"""ONNX Runtime as it behaves on a machine with a GPU, played on one without: the real library of the CPU does the work.

Played are the behaviours that the real wheel for GPUs (1.31) was seen to have or documents: which providers a session
has, a provider that is not created and leaves the session to the CPU without an error, strict sessions that refuse
nodes placed on the CPU, and a value "on the device" that is a copy of the host's, which later changes of the host's
array do not reach. Everything else is the real library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as real

CPU = "CPUExecutionProvider"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
STRICT_REFUSAL = (
    "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP, but"
    " fallback to CPU EP has been explicitly disabled by the user."
)


@dataclass
class Machine:
    """What the library finds: `on_cpu` are operators that the GPU's providers do not take."""

    folder: Path
    on_cpu: frozenset[str] = frozenset()
    loads: bool = True
    session_error: str = ""
    run_error: str = ""
    tells_partition: bool = True
    leaves_after_run: bool = False
    sessions: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        capi = self.folder / "onnxruntime" / "capi"
        capi.mkdir(parents=True)
        shared = Path(real.__file__).parent / "capi" / "libonnxruntime_providers_shared.so"
        names = ("shared", "cuda", "tensorrt") if self.loads else ("shared",)
        for name in names:
            (capi / f"libonnxruntime_providers_{name}.so").symlink_to(shared)

    def library(self) -> Any:
        """The module, for sys.modules."""
        machine = self

        class InferenceSession(_Session):
            def __init__(self, model: Any, options: Any, providers: Sequence[Any], **more: Any) -> None:
                super().__init__(machine, model, options, providers, **more)

        if machine.tells_partition:
            InferenceSession.get_provider_graph_assignment_info = _Session.assignment  # type: ignore[attr-defined]
        return SimpleNamespace(
            __name__="onnxruntime",
            __version__="1.31.1",
            __file__=str(self.folder / "onnxruntime" / "__init__.py"),
            InferenceSession=InferenceSession,
            SessionOptions=real.SessionOptions,
            ExecutionMode=real.ExecutionMode,
            GraphOptimizationLevel=real.GraphOptimizationLevel,
            OrtValue=_OrtValue,
            get_available_providers=lambda: [TENSORRT, CUDA, CPU],
            preload_dlls=lambda: print("what it does not find it prints"),  # noqa: T201
        )


class _OrtValue:
    """A value on the device: a copy."""

    @staticmethod
    def ortvalue_from_numpy(array: Any, kind: str, device: int) -> Any:
        assert (kind, device) == ("cuda", 0)
        return real.OrtValue.ortvalue_from_numpy(array.copy(), "cpu", 0)


class _Session:
    def __init__(self, machine: Machine, model: Any, options: Any, providers: Sequence[Any], **more: Any) -> None:
        assert more == {"enable_fallback": False}
        names = [name if isinstance(name, str) else name[0] for name in providers]
        self.machine, self.names, self.ran = machine, names, False
        self.options = {name[0]: name[1] for name in providers if not isinstance(name, str)}
        strict = _entry(options, "session.disable_cpu_ep_fallback") == "1"
        assert not (strict and CPU in names), "INVALID_ARGUMENT Conflicting session configuration"
        if machine.session_error:
            raise RuntimeError(machine.session_error)
        # What the real library does with the entry would be about the CPU, which plays the GPU here.
        played = real.SessionOptions()
        for name in ("intra_op_num_threads", "log_severity_level", "enable_profiling", "profile_file_prefix"):
            setattr(played, name, getattr(options, name))
        self.real = real.InferenceSession(model, played, providers=[CPU])
        self.operators = _operators(model)
        if strict and any(not self._taken(operator) for operator in self.operators):
            raise RuntimeError(STRICT_REFUSAL)
        machine.sessions.append(self)

    def _taken(self, operator: str) -> bool:
        return self.machine.loads and self.names[0] != CPU and operator not in self.machine.on_cpu

    def get_providers(self) -> list[str]:
        gone = not self.machine.loads or (self.ran and self.machine.leaves_after_run)
        names = [CPU] if gone else list(self.names)
        return names if CPU in names else [*names, CPU]

    def run_with_iobinding(self, binding: Any) -> None:
        if self.machine.run_error:
            raise RuntimeError(self.machine.run_error)
        self.ran = True
        self.real.run_with_iobinding(binding)

    def run(self, names: Any, feeds: Any) -> Any:
        if self.machine.run_error:
            raise RuntimeError(self.machine.run_error)
        return self.real.run(names, feeds)

    def assignment(self) -> list[Any]:
        def part(operator: str) -> Any:
            provider = self.names[0] if self._taken(operator) else CPU
            node = SimpleNamespace(name="", op_type=operator, domain="")
            return SimpleNamespace(ep_name=provider, get_nodes=lambda: [node])

        return [part(operator) for operator in self.operators]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def _entry(options: Any, name: str) -> str:
    try:
        return str(options.get_session_config_entry(name))
    except RuntimeError:
        return ""


def _operators(model: Any) -> list[str]:
    import onnx

    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    return [node.op_type for node in loaded.graph.node]
