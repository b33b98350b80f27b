"""A torch module as a clean ONNX model, compared with torch on real images. Runs in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backbench.controller.export.opset_down import to_opset_17
from backbench.controller.export.ort import quiet
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.torch_model import TorchModel
from backbench.domain.errors import InvalidModel
from backbench.models.hygiene import strip
from backbench.models.onnx_input import MODEL_KEY, PREPROCESS_KEY

_DEEP = 100
TOLERANCE, TOLERANCE_DEEP = 1e-3, 5e-3
"""Largest difference over largest value; networks of more than a hundred layers amplify the last bits of float32."""

_FOLDED_NUMBERS = 1 << 27

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far ONNX Runtime is from torch: the largest difference over the largest value, per output and in all."""

    shapes: tuple[tuple[int, ...], ...]
    errors: dict[str, float]
    tolerance: float

    @property
    def worst(self) -> float:
        """The largest of the errors; infinite where an output is not a number."""
        return max((error if math.isfinite(error) else math.inf) for error in self.errors.values())


def onnx_from_torch(model: TorchModel, request: ExportRequest) -> onnx.ModelProto:
    """The module as an ONNX model: stripped of traces, its opset read back, what it is in its metadata."""
    with quiet():
        return _onnx_from_torch(model, request)


def _onnx_from_torch(model: TorchModel, request: ExportRequest) -> onnx.ModelProto:
    import torch

    wanted = max(request.opset, 18)
    batch = 2 if "batch" in request.dynamic else request.batch
    extra = model.step if "size" in request.dynamic else 0  # equal sides would be taken for one and the same dimension
    program = torch.onnx.export(
        model.module,
        (torch.randn(batch, 3, model.height, model.width + extra),),
        dynamo=True,
        verbose=False,
        opset_version=wanted,
        input_names=["image"],
        output_names=[output.name for output in model.outputs],
        dynamic_shapes=_dynamic_shapes(request),
        optimize=False,
    )
    if program is None:
        raise InvalidModel(f"torch's exporter gave nothing for {model.name}; take another size")
    _optimize(program.model)
    onnx_model: onnx.ModelProto = program.model_proto
    if request.opset == 17:
        to_opset_17(onnx_model)
    opset = next(entry.version for entry in onnx_model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset != request.opset:
        raise InvalidModel(f"torch's exporter wrote opset {opset} instead of {request.opset}; take --opset {opset}")
    strip(onnx_model)
    onnx_model.producer_version = _version("torch")
    state(onnx_model, model, opset)
    return onnx_model


def state(onnx_model: onnx.ModelProto, model: TorchModel, opset: int) -> None:
    """Put into the metadata what the model is and how an image becomes its input."""
    image = onnx_model.graph.input[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in image.shape.dim]
    facts = {
        "schema": "backbench.model/1",
        "name": model.name,
        "tag": model.tag,
        "source": "timm",
        "licence": model.licence,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "deploy_form": True,
        "opset": opset,
        "params": model.params,
        "precision": "fp32",
        "target": "any",
        "input": {"name": "image", "dims": dims, "layout": "NCHW", "color": "RGB", "dtype": "float32"},
        "outputs": [asdict(output) for output in model.outputs],
        "exporter": "torch.onnx dynamo",
        "versions": {name: _version(name) for name in ("torch", "timm", "onnx", "onnxscript")},
        "quantization": None,
    }
    for key, value in ((PREPROCESS_KEY, asdict(model.preprocess)), (MODEL_KEY, facts)):
        onnx_model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=json.dumps(value, sort_keys=True)))


def _version(distribution: str) -> str:
    """The release, whichever of its builds is installed."""
    return importlib.metadata.version(distribution).partition("+")[0]


def torch_outputs(model: TorchModel, images: Array) -> dict[str, Array]:
    """What torch gives for images of shape (k, 3, H, W), one at a time, by output name."""
    import torch

    rows: list[list[Array]] = []
    with torch.no_grad():
        for image in images:
            produced = model.module(torch.from_numpy(image[None]))
            listed = list(produced) if isinstance(produced, (list, tuple)) else [produced]
            rows.append([value[0].numpy() for value in listed])
    return {output.name: np.stack([row[place] for row in rows]) for place, output in enumerate(model.outputs)}


def compare(session: Any, expected: dict[str, Array], images: Array, layers: int) -> Comparison:
    """ONNX Runtime's outputs for images against torch's. `layers` counts convolutions and matrix products."""
    inputs = session.get_inputs()[0]
    batch = inputs.shape[0] if isinstance(inputs.shape[0], int) else 1
    errors = dict.fromkeys(expected, 0.0)
    for place, image in enumerate(images):
        produced = session.run(list(expected), {inputs.name: np.repeat(image[None], batch, axis=0)})
        for name, values in zip(expected, produced, strict=True):
            wanted = expected[name][place]
            largest = float(np.abs(wanted).max()) or 1.0
            difference = float(np.abs(values[-1] - wanted).max()) / largest
            errors[name] = max(errors[name], difference if math.isfinite(difference) else math.inf)
    return Comparison((tuple(images.shape),), errors, TOLERANCE_DEEP if layers > _DEEP else TOLERANCE)


def layer_count(onnx_model: onnx.ModelProto) -> int:
    """Convolutions and matrix products."""
    return sum(node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") for node in onnx_model.graph.node)


def _optimize(program: Any) -> None:
    """What torch does by default, but without limits on what is folded: so a graph does not depend on its size."""
    from onnxscript.optimizer import optimize_ir
    from onnxscript.rewriter import onnx_fusions

    optimize_ir(program, input_size_limit=_FOLDED_NUMBERS, output_size_limit=_FOLDED_NUMBERS)
    onnx_fusions.fuse(program)


def _dynamic_shapes(request: ExportRequest) -> Any:
    if not request.dynamic:
        return None
    axes = {}
    if "batch" in request.dynamic:
        axes[0] = "batch"
    if "size" in request.dynamic:
        axes.update({2: "height", 3: "width"})
    return (axes,)
