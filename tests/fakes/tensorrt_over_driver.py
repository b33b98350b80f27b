"""Builds and runs a model by the double of `tensorrt` on whatever `libcuda.so.1` there is; prints what came, as JSON.

`python tensorrt_over_driver.py VERSION MODEL FOLDER OPTIONS`. The double's kernels are functions of the host, which the
driver calls in the order of the stream.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.fakes.fake_tensorrt import module_of

from backbench.agent.backends.base import OpenRequest
from backbench.agent.backends.tensorrt.backend import TensorRt
from backbench.agent.backends.tensorrt.module import Library

_SHAPE = (1, 3, 16, 16)


class Kernels:
    """Queues functions of the host in streams of the driver."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._kept: list[Any] = []

    def enqueue(self, stream: int, step: Callable[[], object]) -> None:
        function = self._kind(lambda _: step() and None)
        self._kept.append(function)
        assert self._driver.cuLaunchHostFunc(ctypes.c_void_p(stream), function, None) == 0

    def drain(self, stream: int) -> None:
        assert self._driver.cuStreamSynchronize(ctypes.c_void_p(stream)) == 0

    def live(self) -> int:
        return int(self._driver.fakecuda_live())


def main() -> None:
    version, model, folder, options = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
    kernels = Kernels()
    module = module_of(version, kernels.enqueue, kernels.drain)
    backend = TensorRt("tensorrt", "tensorrt", library=lambda _: Library(module, "TensorRT", is_rtx=False))
    request = OpenRequest(model, _SHAPE, 1, False, options=options, engine_path=str(folder / "engine"))
    told: dict[str, Any] = {"described": backend.describe().available, "key": dict(backend.engine_key(request))}
    backend.build(request, folder / "engine", lambda *_: None)
    images = [np.random.Generator(np.random.PCG64(seed)).standard_normal(_SHAPE, np.float32) for seed in range(2)]
    told["before"] = kernels.live()
    with backend.open(request) as engine:
        engine.bind(images)
        told["outputs"], told["spans"] = [], []
        for slot in (0, 1, 0):
            engine.infer(slot)
            told["outputs"].append(np.asarray(engine.outputs()[0]).tolist())
            told["spans"].append(engine.spans())
        told["facts"], told["figures"] = dict(engine.facts), dict(engine.memory_figures())
    told["after"] = kernels.live()
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
