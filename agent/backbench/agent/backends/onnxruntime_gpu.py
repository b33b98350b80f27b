"""ONNX Runtime on a GPU, by CUDA or by TensorRT: what was asked for runs the whole model, or it says what did not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbench.agent.backends import ort_library
from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.onnxruntime import OrtEngine, profile
from backbench.agent.backends.ort_profile import partition_of, partition_text, read_profile
from backbench.domain.device import Backend as BackendDescription
from backbench.domain.errors import BackbenchError
from backbench.domain.quantity import parse_quantity
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backbench.agent.backends.cuda.probe import Cuda

_SEARCHES = ("exhaustive", "heuristic", "default")
_HIGHEST_DEVICE = 63
_NO_FALLBACK, _RECORD = "session.disable_cpu_ep_fallback", "session.record_ep_graph_assignment_info"
_PLACED_ON_CPU = "fallback to CPU EP has been explicitly disabled"
_INSTALL = "install the CUDA and cuDNN that it was built with, for example pip install 'onnxruntime-gpu[cuda,cudnn]'"
_REMEDIES = {
    "no kernel image": "install an ONNX Runtime that was built for this GPU; on a Jetson, the one for its JetPack",
    "NoKernelImage": "install an ONNX Runtime that was built for this GPU; on a Jetson, the one for its JetPack",
    "driver version is insufficient": "update the NVIDIA driver, or install an ONNX Runtime for an older CUDA",
    "no CUDA-capable device": "look at nvidia-smi: there is no GPU that CUDA can use",
    "invalid device ordinal": "choose another device",
}
_PARTITION_WORDS = 5


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider: its backend's name and its own, the library that it lies in, and who else may take nodes
    where others may.
    """

    backend: str
    name: str
    library: str
    others: tuple[str, ...] = ()
    device_kind: str = "cuda"
    """Where its inputs lie, as ONNX Runtime calls it."""


class OnnxRuntimeCuda:
    """The CUDA execution provider."""

    name = "onnxruntime-cuda"
    provider = Provider(name, "CUDAExecutionProvider", "cuda")
    option_names: tuple[str, ...] = ("cudnn-search", "device", "gpu-mem-limit")
    engine_precisions: tuple[str, ...] = ()

    def describe(self) -> BackendDescription:
        """What is installed, whether there is a GPU, and whether one operator really runs on it; never raises."""
        try:
            module = self._loaded()
            check_gpu(0)
            self._try_one_operator(module)
        except WorkerFailure as failure:
            return BackendDescription(self.name, available=False, reason=str(failure))
        return BackendDescription(
            self.name,
            available=True,
            version=module.__version__,
            providers=(self.provider.name,),
            precisions=ort_library.PRECISIONS,
            max_opset=ort_library.newest_opset(module),
            options=self.option_names,
            engine_precisions=self.engine_precisions,
        )

    def load(self) -> None:
        """Import onnxruntime, and what its wheel for a GPU needs."""
        self._loaded()

    def open(self, request: OpenRequest) -> GpuEngine:
        """A session on the GPU. Raises WorkerFailure where the provider does not run the whole model."""
        return GpuEngine(request, self.provider, self._provider_options(request))

    def _loaded(self) -> Any:
        module = ort_library.imported()
        if self.provider.name not in module.get_available_providers():
            raise ort_library.unavailable(ort_library.provider_remedy(module, self.provider.name))
        if hasattr(module, "preload_dlls"):
            # It prints what it does not find; who lacks something is told when a session is opened.
            with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(Exception):
                module.preload_dlls()
        return module

    def _provider_options(self, request: OpenRequest) -> dict[str, str]:
        options = checked_options(request.options, self.option_names)
        found = {"device_id": options.get("device", "0")}
        if "cudnn-search" in options:
            found["cudnn_conv_algo_search"] = options["cudnn-search"].upper()
        if "gpu-mem-limit" in options:
            found["gpu_mem_limit"] = str(_bytes(options["gpu-mem-limit"]))
        return found

    def _try_one_operator(self, module: Any) -> None:
        """A list of providers says nothing of this machine. Raises WorkerFailure."""
        try:
            model = ort_library.one_operator("Relu")
        except ImportError:
            return
        options = module.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(_NO_FALLBACK, "1")
        try:
            session = module.InferenceSession(
                model, options, providers=[(self.provider.name, {"device_id": "0"})], enable_fallback=False
            )
            import numpy as np

            session.run(None, {"x": np.ones(1, np.float32)})
        except Exception as error:
            raise _unusable(error, module, self.provider) or ort_library.unavailable(
                f"{self.provider.name} does not run one operator: {ort_library.one_line(error)}; install ONNX Runtime"
                " again, or another version"
            ) from error


class GpuEngine(OrtEngine):
    """One session; its input lies on the device, and is copied there by each inference before the call."""

    def __init__(self, request: OpenRequest, provider: Provider, provider_options: Mapping[str, str]) -> None:
        self._provider = provider
        self._provider_options = provider_options
        self._partition: dict[str, int] = {}
        self._partition_from = "the library"
        self._value: Any = None
        from backbench.agent.backends.cuda.usage import MemoryUsage  # not before: a worker on the CPU has no use for it

        self._usage = MemoryUsage(int(provider_options["device_id"]))
        super().__init__(request)
        self._run = self._first_run

    @property
    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        return {
            **super().facts,
            "backend": self._provider.backend,
            "precision": self._request.precision or "as-model",
            "transfers": "input copied from pageable host memory before the call, outputs inside it; both are compute",
            "provider_options": ", ".join(f"{name}={value}" for name, value in sorted(self._provider_options.items())),
            "partition": partition_text(self._partition) or "unknown",
            "partition_from": self._partition_from,
            "fallback": self._fallback_words(),
            "layer_times": "of the calls on the host, which need not wait for the device",
        }

    def _fallback_words(self) -> str:
        """Who runs nodes besides the provider that was asked for."""
        if not self._request.allow_fallback:
            return "not allowed"
        if not self._partition:
            return "unknown"
        others = {name: count for name, count in self._partition.items() if name != self._provider.name}
        return partition_text(others) or "none"

    def bind(self, slots: Sequence[NDArray[np.float32]]) -> None:
        """See `Engine.bind`. One input on the device serves all: a bound host buffer would be copied once, here."""
        self._slots = list(slots)
        self._outputs = self._output_buffers()
        device = int(self._provider_options["device_id"])
        make = self._library.OrtValue.ortvalue_from_numpy
        self._value = make(self._slots[0].copy(), self._provider.device_kind, device)
        binding = self._output_binding()
        binding.bind_ortvalue_input(self._input.name, self._value)
        self._bindings = [binding]

    def infer(self, slot: int) -> None:
        """See `Engine.infer`."""
        self._value.update_inplace(self._slots[slot])
        self._run(self._bindings[0])

    def verify(self) -> None:
        """See `Verified.verify`: whose session it is still, and who has which nodes."""
        self._check_providers(self._session)
        elsewhere = {name: count for name, count in self._partition.items() if name != self._provider.name}
        if elsewhere and not self._request.allow_fallback:
            raise self._not_whole(partition_text(elsewhere))

    def memory_figures(self) -> Mapping[str, int]:
        """See `MemoryTold.memory_figures`."""
        return self._usage.figures()

    def __enter__(self) -> GpuEngine:
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__(None, None, None)
        self._value = None
        self._usage.close()

    def _options(self) -> Any:
        options = super()._options()
        options.add_session_config_entry(_RECORD, "1")
        if not self._request.allow_fallback:
            options.add_session_config_entry(_NO_FALLBACK, "1")
        if not self._tells_partition:
            profile(options)
        return options

    def _opened(self, options: Any) -> Any:
        """A session whose first provider is the one that was asked for."""
        others = (*self._provider.others, ort_library.CPU) if self._request.allow_fallback else ()
        providers = [(self._provider.name, dict(self._provider_options)), *others]
        try:
            session = self._session_on(options, providers)
        except Exception as error:
            if _PLACED_ON_CPU in str(error) and not ort_library.load_error(self._library, self._provider.library):
                raise self._not_whole(self._placed_elsewhere()) from error
            failure = _unusable(error, self._library, self._provider)
            raise failure or ort_library.refused(error, self._library) from error
        self._check_providers(session)
        if self._tells_partition:
            self._partition = _assigned(session)
        return session

    def _session_on(self, options: Any, providers: Sequence[Any]) -> Any:
        return self._library.InferenceSession(
            self._request.model_path, options, providers=list(providers), enable_fallback=False
        )

    @property
    def _tells_partition(self) -> bool:
        """Whether this ONNX Runtime says who has which nodes (from 1.24 on)."""
        return hasattr(self._library.InferenceSession, "get_provider_graph_assignment_info")

    def _first_run(self, binding: Any) -> None:
        """The first inference, where a GPU without kernels shows; a session that was profiled for it is so no more."""
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            failure = _unusable(error, self._library, self._provider)
            if failure is not None:
                raise failure from error
            raise
        self._run = self._session.run_with_iobinding
        if not self._tells_partition and not self._request.profiled:
            self._partition_from = "a profile of the first inference"
            with contextlib.suppress(OSError, ValueError):
                self._partition = partition_of(read_profile(Path(self._session.end_profiling())))

    def _check_providers(self, session: Any) -> None:
        """Fallback, where it is allowed, is of nodes: a session without the provider is none of its."""
        providers = session.get_providers()
        if providers[:1] != [self._provider.name]:
            why = ort_library.load_error(self._library, self._provider.library)
            raise ort_library.unavailable(
                f"{self._provider.name} cannot be loaded: {why}; {_INSTALL}"
                if why
                else f"the session runs on {', '.join(providers)} and not on {self._provider.name}; see the agent's log"
            )

    def _placed_elsewhere(self) -> str:
        """Which nodes another provider would take: "CPUExecutionProvider 3 (Gather, Shape)"; little where unknown."""
        if not self._tells_partition:
            return "another provider"
        options = super()._options()
        options.add_session_config_entry(_RECORD, "1")
        providers = [(self._provider.name, dict(self._provider_options)), *self._provider.others, ort_library.CPU]
        with contextlib.suppress(Exception):  # it was refused already; this only says more of it
            session = self._session_on(options, providers)
            operators = sorted(
                {
                    node.op_type
                    for part in session.get_provider_graph_assignment_info()
                    if part.ep_name != self._provider.name
                    for node in part.get_nodes()
                }
            )
            elsewhere = {name: count for name, count in _assigned(session).items() if name != self._provider.name}
            return f"{partition_text(elsewhere)} ({', '.join(operators[:_PARTITION_WORDS])})"
        return "another provider"

    def _not_whole(self, elsewhere: str) -> WorkerFailure:
        return ort_library.unavailable(
            f"{self._provider.name} does not run the whole model, nodes run elsewhere: {elsewhere}; --allow-fallback"
            " runs it all the same, and records that"
        )


def checked_options(options: Mapping[str, str], names: Sequence[str]) -> Mapping[str, str]:
    """The options as they are. Raises WorkerFailure for a name or a value that is none of those that there are."""
    checks: dict[str, tuple[Callable[[str], object], str]] = {
        "device": (_device, f"a number from 0 to {_HIGHEST_DEVICE}"),
        "cudnn-search": (_SEARCHES.index, " or ".join(_SEARCHES)),
        "gpu-mem-limit": (_bytes, 'a size like "512MB" or "2GB"'),
    }
    for name, value in options.items():
        if name not in names:
            raise _invalid(f'no option "{name}"; there are {", ".join(names)}')
        check, words = checks[name]
        try:
            check(value)
        except ValueError:
            raise _invalid(f'option {name} is {words}, not "{value[:64]}"') from None
    return options


def _device(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _HIGHEST_DEVICE:
        raise ValueError
    return number


def _bytes(text: str) -> int:
    try:
        found = int(parse_quantity("gpu-mem-limit", text, "memory") * 10**6)
    except BackbenchError as error:
        raise ValueError from error
    if found < 1:
        raise ValueError
    return found


def _invalid(message: str) -> WorkerFailure:
    return WorkerFailure(FailureReason.INVALID_INPUT, message)


def check_gpu(device: int) -> Cuda:
    """The GPU of that number. Raises WorkerFailure where CUDA cannot use it."""
    from backbench.agent.backends.cuda.probe import probe_cuda

    found = probe_cuda(device)
    if not found.available:
        raise ort_library.unavailable(found.reason)
    return found


def _unusable(error: Exception, module: Any, provider: Provider) -> WorkerFailure | None:
    """What is missing on this machine, where an error of ONNX Runtime comes from that; None where it does not."""
    if why := ort_library.load_error(module, provider.library):
        return ort_library.unavailable(f"{provider.name} cannot be loaded: {why}; {_INSTALL}")
    words = ort_library.one_line(error)
    for part, remedy in _REMEDIES.items():
        if part in words:
            return ort_library.unavailable(f"{provider.name} cannot be used: {words}; {remedy}")
    return None


def _assigned(session: Any) -> dict[str, int]:
    """How many nodes each provider has got, before later fusions."""
    nodes: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return nodes
