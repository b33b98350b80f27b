"""The same model under MLPerf LoadGen's SingleStream scenario. Prints "ready", waits for a line, prints nanoseconds.

`python loadgen_loop.py MODEL THREADS FRAMES SIZE SEED`: eight seeded tensors, the next query when the last one is done.
LoadGen issues its queries from C++ and calls back; the latencies are those of its own log.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import mlperf_loadgen as loadgen
import numpy as np
import onnxruntime

_WARM_UP = 20
_INPUTS = 8


def main(model: str, threads: int, frames: int, size: int, seed: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    generators = (np.random.Generator(np.random.PCG64([seed, place])) for place in range(_INPUTS))
    buffers = [generator.standard_normal((1, 3, size, size), np.float32) for generator in generators]
    for frame in range(_WARM_UP):
        session.run(None, {name: buffers[frame % _INPUTS]})
    print("ready", flush=True)
    sys.stdin.readline()

    def issue(samples: list[loadgen.QuerySample]) -> None:
        for sample in samples:
            session.run(None, {name: buffers[sample.index % _INPUTS]})
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0)])

    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = 0
    settings.min_query_count = settings.max_query_count = frames
    with tempfile.TemporaryDirectory() as folder:
        output = loadgen.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logging = loadgen.LogSettings()
        logging.log_output, logging.enable_trace = output, True
        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(_INPUTS, _INPUTS, lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(system, library, settings, logging)
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
        json.dump(latencies(Path(folder) / "mlperf_log_trace.json"), sys.stdout)


def latencies(trace: Path) -> list[int]:
    """The latency of every sample, from its beginning to its end in LoadGen's trace; its other lines may be no JSON."""
    begun: dict[int, float] = {}
    times = []
    for line in trace.read_text().splitlines():
        if '"name":"Sample"' in line:
            event = json.loads(line.rstrip(","))
            if event["ph"] == "b":
                begun[event["id"]] = event["ts"]
            else:
                times.append(round((event["ts"] - begun.pop(event["id"])) * 1000))
    return times


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[2:6]]
    main(sys.argv[1], *numbers)
