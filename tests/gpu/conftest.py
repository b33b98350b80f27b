"""What needs an NVIDIA GPU is skipped where there is none, and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations.devices import add_device
from backbench.controller.operations.local_agent import local_agent
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.controller.operations.profile import profile
from backbench.controller.operations.stop import Stop
from backbench.controller.store import Store
from backbench.domain.device import Device

MODEL = "mobilenetv3_large_100"


@dataclass
class Gpu:
    """A real agent on a machine with a GPU."""

    store: Store
    device: Device
    address: str

    def backend(self, name: str) -> Any:
        """What the agent says of a backend; skips where it cannot be used."""
        found = next((each for each in self.device.backends if each.name == name), None)
        if found is None or not found.available:
            pytest.skip(f"{name}: {found.reason if found else 'the agent has no such backend'}")
        return found

    def run(self, backend: str, **changes: Any) -> dict[str, Any]:
        """A run's document."""
        fields: dict[str, Any] = {"size": "224", "frames": 300, "warmup": 20, "telemetry_rate_hz": 0.0, **changes}
        request = ProfileRequest((MODEL,), "gpu", backends=(backend,), **fields)
        (record,) = profile(self.store, plan_profile(request), Observer(), Stop())
        assert record.document is not None
        return record.document


@pytest.fixture(scope="session")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpu]:
    """The agent; skips without a GPU that CUDA can use."""
    from backbench.agent.backends.cuda.probe import probe_cuda

    found = probe_cuda(0)
    if not found.available:
        pytest.skip(f"no NVIDIA GPU here: {found.reason}")
    folder = tmp_path_factory.mktemp("gpu")
    with local_agent(folder / "agent") as address, Store.open(folder / "store") as store:
        add_device(store, "gpu", address)
        with AgentClient(address) as client:
            yield Gpu(store, client.get_device(), address)


@pytest.fixture
def script() -> Callable[[str], Path]:
    """A file in benchmarks/ by its name."""
    return lambda name: Path(__file__).parents[2] / "benchmarks" / name
