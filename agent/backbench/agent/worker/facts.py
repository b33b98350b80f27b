"""What defines the latency that a worker measured: of its engine, its inputs and its job."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from backbench.agent.backends.base import DeviceTimed, Verified

if TYPE_CHECKING:
    from backbench.agent.backends.base import Engine
    from backbench.agent.worker.inputs import Inputs
    from backbench.agent.worker.job import Job


def verified_facts(job: Job, engine: Engine, inputs: Inputs) -> dict[str, str]:
    """The facts, once the engine has looked at what executed it. Raises WorkerFailure as `Verified.verify` does."""
    if isinstance(engine, Verified):
        engine.verify()
    facts = {
        **engine.facts,
        "clock": "CLOCK_MONOTONIC",
        "compute": "events of the device" if isinstance(engine, DeviceTimed) else "time of the call",
        "batch": str(job.batch),
        "python": platform.python_version(),
        "inputs": f"{inputs.count} images" if inputs.timed else f"{inputs.count} synthetic, seed {job.seed}",
        "warmup": f"{job.warmup_frame_count} frames",
        "postprocess": job.postprocess or "none",
    }
    if inputs.timed:
        import PIL

        facts["image_library"] = f"pillow {PIL.__version__}"
    return facts
