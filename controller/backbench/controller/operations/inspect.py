"""A model looked at without running it: its graph's analysis beside what its file states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backbench.controller.analysis.graph import GraphAnalysis, OutputReach, Roofline, analyse, roofline, to_document
from backbench.controller.operations.models import ModelFile, parse_size, resolve_model
from backbench.domain.errors import InvalidArgument
from backbench.models import catalog
from backbench.models.graph import shaped_graph
from backbench.models.onnx_input import model_facts

if TYPE_CHECKING:
    from backbench.controller.store import Store
    from backbench.controller.store.records import DeviceRoofline

_LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """What to look at; `size` and `device` as on the command line, None where not given."""

    model: str
    size: str | None = None
    batch: int = 1
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model at one size. `stated` is what its file says of it, empty where it says nothing."""

    model: ModelFile
    size: tuple[int, int]
    batch: int
    stated: Mapping[str, Any]
    analysis: GraphAnalysis
    device: str | None = None
    roofline: Roofline | None = None

    def document(self) -> dict[str, Any]:
        """The document `backbench.inspect/1`."""
        document = to_document(self.analysis, model=self._facts(), roofline=self.roofline, device=self.device)
        stated = stated_outputs(self.stated)
        for row in document["outputs"]:
            row["stated"] = stated.get(row["name"])
        return document

    def _facts(self) -> dict[str, Any]:
        contract = self.model.contract
        height, width = self.size
        return {
            "name": self.model.name,
            "source": self.model.source,
            "size": [height, width],
            "batch": self.batch,
            "input": {"name": contract.name, "dims": list(contract.dims), "dtype": contract.dtype},
            "preprocess": {**asdict(self.model.preprocess), "assumed": self.model.preprocess_assumed},
            "torch_parameters": torch_parameters(self),
            "torch_parameters_size": list(self.model.recipe.size) if self.model.recipe else None,
            "licence": licence(self),
            "weights": self.stated.get("weights"),
            "stated": dict(self.stated) or None,
            "contradictions": list(_contradictions(self)),
        }


def inspect_model(request: InspectRequest, store: Store | None = None) -> Inspection:
    """Look at a model; with a device, `store` is where its peak rates are kept.

    Raises UnknownBackbone, InvalidModel, ShapeMismatch or InvalidArgument, and DeviceNotFound for an unknown device.
    """
    rates = _rates(store, request.device) if store is not None and request.device is not None else None
    if request.batch < 1:
        raise InvalidArgument(f"--batch is {request.batch}; give 1 or more images")
    model = resolve_model(request.model)
    height, width = model.size(None if request.size is None else parse_size(request.size))
    model.check_batch(request.batch)
    path = model.path if model.recipe is None else catalog.skeleton_path(model.name, (height, width))
    graph = shaped_graph(path, batch=request.batch, height=height, width=width)
    stated = model_facts(graph, model.path)
    layouts = {name: row["layout"] for name, row in stated_outputs(stated).items() if row.get("layout") in _LAYOUTS}
    analysis = analyse(graph, layouts=layouts)
    bounds = None
    if rates is not None:
        bounds = roofline(
            analysis,
            peak_flops_per_s=rates.peak_flops_per_s,
            peak_bytes_per_s=rates.peak_bytes_per_s,
            precision=rates.precision,
        )
    return Inspection(model, (height, width), request.batch, stated, analysis, request.device, bounds)


def stated_outputs(stated: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The output contract that the file states, by output."""
    rows = stated.get("outputs")
    return {
        row["name"]: row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("name"), str)
    }


def torch_parameters(inspection: Inspection) -> int | None:
    """How many parameters the torch module had, before anything was folded; None where nothing says so.

    A backbone of the catalogue states those of its own size; tables of positions grow with the size.
    """
    stated = inspection.stated.get("params")
    if isinstance(stated, int):
        return stated
    return inspection.model.recipe.params if inspection.model.recipe else None


def licence(inspection: Inspection) -> str | None:
    """The weights' licence; None where nothing says so."""
    stated = inspection.stated.get("licence")
    if isinstance(stated, str):
        return stated
    return inspection.model.recipe.licence if inspection.model.recipe else None


def _contradictions(inspection: Inspection) -> Iterable[str]:
    """Where the file states something else than its graph shows."""
    stated = stated_outputs(inspection.stated)
    for output in inspection.analysis.outputs:
        row = stated.get(output.name)
        if row is not None and output.map is not None and not output.pooled:
            yield from _output_contradictions(output, row)


def _output_contradictions(output: OutputReach, row: Mapping[str, Any]) -> Iterable[str]:
    if output.map is None:
        return
    stride = output.map.stride_px
    shown = {
        "layout": output.map.layout,
        "channels": output.map.channels,
        "stride": None if stride is None or stride[0] != stride[1] else stride[0],
    }
    for key, value in shown.items():
        if value is not None and row.get(key) is not None and row[key] != value:
            yield f"{output.name}: the file states {key} {row[key]}, the graph shows {value}"


def _rates(store: Store, device: str) -> DeviceRoofline:
    rates = store.roofline(device)
    if rates is None:
        raise InvalidArgument(
            f"the peak rates of {device} are not known yet; measure them: backbench device show {device} --roofline"
        )
    return rates
