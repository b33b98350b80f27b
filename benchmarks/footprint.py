"""An idle agent's memory, and how soon after its start it answers."""

from __future__ import annotations

import json
import statistics
import sys
import time

from agent_process import AgentProcess

from backbench.controller.client import AgentClient

_ROUNDS = 5


def run() -> dict[str, float]:
    """Medians over several starts; the memory is read after the agent has described the device."""
    starts, answers, resident = [], [], []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        with AgentProcess() as agent, AgentClient(agent.address) as client:
            client.get_device()
            answers.append(time.perf_counter() - began)
            starts.append(agent.start_s)
            resident.append(agent.resident_bytes)
    return {
        "listening_after_s": statistics.median(starts),
        "device_described_after_s": statistics.median(answers),
        "idle_resident_mb": statistics.median(resident) / 1e6,
    }


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
