"""What anybody would write: a plain ONNX Runtime loop. Prints "ready", waits for a line, prints nanoseconds as JSON.

`python bare_loop.py MODEL THREADS FRAMES SIZE SEED [IMAGE ...]`: without images, eight seeded tensors are cycled and
only the run is timed; with images, each frame decodes and preprocesses one and both are timed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from backbench.domain.preprocess import IMAGENET_DEFAULT
from backbench.models.preprocessing import decode_image, write_input

_WARM_UP = 20


def main(model: str, threads: int, frames: int, size: int, seed: int, images: list[str]) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    shape = (1, 3, size, size)
    if images:
        encoded = [Path(image).read_bytes() for image in images]
        buffers = [np.zeros(shape, np.float32)]
    else:
        generators = (np.random.Generator(np.random.PCG64([seed, place])) for place in range(8))
        buffers = [generator.standard_normal(shape, np.float32) for generator in generators]
    times = []
    for frame in range(_WARM_UP + frames):
        if frame == _WARM_UP:
            print("ready", flush=True)
            sys.stdin.readline()
        start = time.perf_counter_ns()
        if images:
            image = decode_image(encoded[frame % len(encoded)])
            write_input(image, buffers[0][0], IMAGENET_DEFAULT, size, size)
        session.run(None, {name: buffers[frame % len(buffers)]})
        times.append(time.perf_counter_ns() - start)
    json.dump(times[_WARM_UP:], sys.stdout)


if __name__ == "__main__":
    threads, frames, size, seed = map(int, sys.argv[2:6])
    main(sys.argv[1], threads, frames, size, seed, sys.argv[6:])
