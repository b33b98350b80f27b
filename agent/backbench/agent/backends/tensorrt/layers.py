"""What each layer of an engine takes: times by IProfiler, joined with what the engine inspector knows of the layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbench.domain.event import Layer

_NS_PER_MS = 1_000_000


class LayerTimes:
    """Times by layer, in the order in which the layers are first heard of."""

    def __init__(self) -> None:
        self._times: dict[str, tuple[float, int]] = {}

    def take(self, name: str, ms: float) -> None:
        """One execution of a layer."""
        total_ms, count = self._times.get(name, (0.0, 0))
        self._times[name] = (total_ms + ms, count + 1)

    def clear(self) -> None:
        """Forget what was taken so far."""
        self._times.clear()

    def layers(self, known: Mapping[str, LayerFacts]) -> tuple[Layer, ...]:
        """The mean of each layer, with its operator and what executed it where that is known."""
        found = []
        for name, (total_ms, count) in self._times.items():
            facts = known.get(name, LayerFacts())
            mean_ns = round(total_ms / count * _NS_PER_MS)
            found.append(Layer(name, facts.operator, facts.provider, mean_ns, count))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What the inspector knows of a layer; `operator` is empty where it tells only names."""

    operator: str = ""
    provider: str = "TensorRT"


def make_profiler(module: Any, times: LayerTimes) -> Any:
    """An IProfiler of that module that writes into `times`. Keep it alive as long as the context that has it."""

    class Profiler(module.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.take(layer_name, ms)

    return Profiler()


def inspected(module: Any, engine: Any) -> dict[str, LayerFacts]:
    """The layers that the inspector lists, by name; empty where it lists none."""
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return {}
    return layer_facts(inspector.get_engine_information(module.LayerInformationFormat.JSON))


def layer_facts(text: str) -> dict[str, LayerFacts]:
    """The inspector's JSON read leniently: layers are names, or objects whose keys differ between versions."""
    try:
        document = json.loads(text, strict=False)
    except ValueError:
        return {}
    listed = document.get("Layers") if isinstance(document, dict) else None
    known = {}
    for layer in listed if isinstance(listed, list) else []:
        if isinstance(layer, str):
            known[layer] = LayerFacts()
        elif isinstance(layer, dict) and isinstance(layer.get("Name"), str):
            operator = str(layer.get("LayerType") or layer.get("Type") or "")
            known[layer["Name"]] = LayerFacts(operator, "DLA" if "DLA" in operator.upper() else "TensorRT")
    return known
