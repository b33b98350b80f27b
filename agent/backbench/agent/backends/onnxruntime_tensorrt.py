"""ONNX Runtime on a GPU by its TensorRT provider: engines are built once, into a folder where the provider looks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path

from backbench.agent.backends import ort_library
from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.onnxruntime_gpu import GpuEngine, OnnxRuntimeCuda, Provider, check_gpu
from backbench.domain.run import FailureReason

_MAPS = Path("/proc/self/maps")
_ENGINES = "*.engine"


class OnnxRuntimeTensorRt(OnnxRuntimeCuda):
    """The TensorRT execution provider; where others may take nodes, CUDA's goes before the CPU's."""

    name = "onnxruntime-tensorrt"
    provider = Provider(name, "TensorrtExecutionProvider", "tensorrt", ("CUDAExecutionProvider",))
    option_names = ("device",)
    engine_precisions = ("fp16",)

    def engine_key(self, request: OpenRequest) -> Mapping[str, str]:
        """See `Buildable.engine_key`. The provider names its engines by the model's file, too."""
        module = self._loaded()
        options = self._provider_options(request)
        gpu = check_gpu(int(options["device_id"]))
        if why := ort_library.load_error(module, self.provider.library):
            raise ort_library.unavailable(f"{self.provider.name} cannot be loaded: {why}; install that TensorRT")
        return {
            "library": f"onnxruntime {module.__version__}",
            "tensorrt": tensorrt_version(),
            "gpu": gpu.name,
            "compute_capability": ".".join(map(str, gpu.compute_capability or ())),
            "cuda_driver": gpu.driver_version,
            "precision": request.precision or "as the model",
            "shape": "x".join(map(str, request.input_shape)),
            "partition": "others may take nodes" if request.allow_fallback else "the whole model",
            "model_file": Path(request.model_path).name,
        }

    def build(
        self,
        request: OpenRequest,
        path: Path,
        progress: Callable[[str, int, int | None], None],
    ) -> Mapping[str, int]:
        """See `Buildable.build`. A session builds the engines while it is opened, and tells nothing until then."""
        progress("session", 0, None)
        path.mkdir()
        with GpuEngine(request, self.provider, self._cached_in(request, path)):
            pass
        engines = list(path.glob(_ENGINES))
        if not engines:
            raise WorkerFailure(
                FailureReason.ENGINE_BUILD_FAILED,
                f"{self.provider.name} took no node of the model; see its log, or take backend onnxruntime-cuda",
            )
        return {"engine_count": len(engines)}

    def open(self, request: OpenRequest) -> GpuEngine:
        """A session that finds its engines built. Raises WorkerFailure where it built others."""
        if not request.engine_path:
            return GpuEngine(request, self.provider, self._provider_options(request))
        folder = Path(request.engine_path)
        before = _written(folder)
        engine = GpuEngine(request, self.provider, self._cached_in(request, folder))
        if _written(folder) != before:
            with engine:
                raise WorkerFailure(
                    FailureReason.ENGINE_BUILD_FAILED,
                    f"{self.provider.name} did not take the engine that was built for it; report it, and take backend"
                    " tensorrt",
                )
        return engine

    def _provider_options(self, request: OpenRequest) -> dict[str, str]:
        options = super()._provider_options(request)
        if request.precision == "fp16":
            options["trt_fp16_enable"] = "1"
        return options

    def _cached_in(self, request: OpenRequest, folder: Path) -> dict[str, str]:
        options = {
            **self._provider_options(request),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
        }
        if request.cache_folder:
            options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": request.cache_folder}
        return options


def tensorrt_version(maps: Path = _MAPS) -> str:
    """The version of the TensorRT that this process has loaded; "unknown" where it has none or does not tell."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
        paths = {line.split(maxsplit=5)[5] for line in lines if "/libnvinfer.so" in line}
        number = int(ctypes.CDLL(min(paths)).getInferLibVersion())
    except (OSError, ValueError, AttributeError, IndexError):
        return "unknown"
    return str(number)


def _written(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.glob(_ENGINES)}
