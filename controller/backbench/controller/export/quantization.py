"""Models in fewer bits: half precision, and int8 with explicit QuantizeLinear and DequantizeLinear nodes.

A function takes a whole fp32 model and gives another one; nothing of it depends on when and where it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from backbench.controller.export.ort import import_ort, quiet
from backbench.controller.export.request import Target
from backbench.controller.export.scratch import scratch_folder
from backbench.domain.errors import BackbenchError, InvalidModel
from backbench.models.onnx_file import first_line
from backbench.models.onnx_input import metadata

_HALF_LARGEST, _HALF_SMALLEST = 65504.0, 5.96e-08
_FACTORS = ["Conv", "MatMul", "Gemm"]
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")
_ATTENTION = ("Attention", "MultiHeadAttention", "LayerNormalization", "RMSNormalization")
_PASSED_ON = ("Reshape", "Transpose", "Cast", "Identity", "Dropout", "Squeeze", "Unsqueeze", "Slice")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How an int8 model is made. `operators` is None for all that ONNX Runtime can quantize."""

    text: str
    signed: bool
    operators: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """What half precision cannot hold.

    Weights that were too large became 65504, those that were too small 6e-8. `activation_names` are those activations
    that were larger than 65504 for some image: where products are computed in half precision, they overflow.
    """

    large_count: int
    small_count: int
    activation_names: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "large_weight_count": self.large_count,
            "small_weight_count": self.small_count,
            "activation_names": list(self.activation_names),
        }


def fp16_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` in half precision, its inputs and outputs still fp32; operators that need fp32 keep it between casts."""
    float16 = import_ort("onnxruntime.transformers.float16")
    with quiet():
        try:
            converted: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
        except Exception as error:
            raise InvalidModel(
                f"the model cannot be converted to fp16 ({first_line(error)}); profile it in fp32"
            ) from error
    _sort_nodes(converted.graph)
    return _cleaned(converted, model)


def out_of_half_range(model: onnx.ModelProto, batches: Any) -> OutOfRange:
    """What of an fp32 `model` half precision cannot hold, its activations being those for `batches`.

    A CPU computes an fp16 model in fp32 between casts, so its outputs do not show what overflows elsewhere.
    """
    large = small = 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            sizes = np.abs(onnx.numpy_helper.to_array(tensor))
            large += int(np.count_nonzero((sizes > _HALF_LARGEST) & np.isfinite(sizes)))
            small += int(np.count_nonzero((sizes > 0) & (sizes < _HALF_SMALLEST)))
    ranges = _activation_ranges(model, batches)
    beyond = sorted(name for name, sides in ranges.items() if not np.abs(sides).max() <= _HALF_LARGEST)
    return OutOfRange(large, small, tuple(beyond))


def _activation_ranges(model: onnx.ModelProto, batches: Any) -> dict[str, Any]:
    """The smallest and the largest number of every activation."""
    quantization = import_ort("onnxruntime.quantization")
    with scratch_folder() as folder, quiet():
        source = folder / "source.onnx"
        source.write_bytes(model.SerializeToString(deterministic=True))
        try:
            calibrator = quantization.create_calibrator(
                source, None, str(folder / "augmented.onnx"), quantization.CalibrationMethod.MinMax
            )
            for index in range(len(batches)):
                batches.set_range(index, index + 1)
                calibrator.collect_data(batches)
            ranges = calibrator.compute_data()
        except (BackbenchError, OSError):
            raise
        except Exception as error:
            raise InvalidModel(f"the activations' ranges cannot be found ({first_line(error)})") from error
        return {name: [np.max(np.abs(side)) for side in data.range_value] for name, data in ranges.items()}


def has_attention(model: onnx.ModelProto) -> bool:
    """Whether the graph is a transformer or a hybrid: layer norms, or a softmax that weighs other activations."""
    if any(node.op_type in _ATTENTION for node in model.graph.node):
        return True
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    names = [name for node in model.graph.node if node.op_type == "Softmax" for name in node.output]
    while names:
        for node in users.get(names.pop(), []):
            if node.op_type in ("MatMul", "Einsum"):
                return True
            if node.op_type in _PASSED_ON:
                names.extend(node.output)
    return False


def int8_scheme(model: onnx.ModelProto, target: Target) -> Scheme:
    """The scheme for `target` that suits `model`.

    On a CPU activations are unsigned: x86 has its fast products for unsigned by signed only. TensorRT takes signed
    numbers around 0 and nothing else. Adding, normalising and weighing in int8 costs a transformer 10 to 20 dB.
    """
    attention = has_attention(model)
    if target == "tensorrt":
        operators = tuple(_FACTORS) if attention else (*_FACTORS, "Add")
        return Scheme(
            f"QDQ S8S8 symmetric, per channel, MinMax, {'/'.join(operators)}", signed=True, operators=operators
        )
    named = "/".join(_FACTORS) if attention else "all operators"
    factors = tuple(_FACTORS) if attention else None
    return Scheme(f"QDQ U8S8 per channel, MinMax, {named}", signed=False, operators=factors)


def int8_model(model: onnx.ModelProto, scheme: Scheme, batches: Any) -> onnx.ModelProto:
    """`model` quantized by `scheme`, the ranges of its activations taken from `batches`, an ONNX Runtime data reader.

    Raises InvalidModel where an activation is not finite, or the quantizer refuses the graph.
    """
    with scratch_folder() as folder:
        source, result = folder / "source.onnx", folder / "result.onnx"
        key, value = _PREPROCESSED
        mark = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key=key, value=value)])
        # Two messages one after the other are read as one: no copy of the weights for the sake of the mark.
        source.write_bytes(model.SerializeToString(deterministic=True) + mark.SerializeToString())
        with quiet():
            try:
                _quantize(source, result, scheme, batches)
            except (BackbenchError, OSError):
                raise
            except Exception as error:
                raise InvalidModel(_cause(model, batches, error)) from error
        quantized = onnx.load(str(result))
    _check_scales(quantized)
    return _cleaned(quantized, model)


def _quantize(source: Path, result: Path, scheme: Scheme, batches: Any) -> None:
    quantization = import_ort("onnxruntime.quantization")
    # One batch at a time: the calibrator otherwise keeps what it saw until the end.
    options: dict[str, Any] = {"CalibStridedMinMax": 1}
    if scheme.signed:
        options |= {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": list(scheme.operators or ()),
        }
    kind = quantization.QuantType
    quantization.quantize_static(
        str(source),
        str(result),
        batches,
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(scheme.operators) if scheme.operators else None,
        per_channel=True,
        activation_type=kind.QInt8 if scheme.signed else kind.QUInt8,
        weight_type=kind.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        extra_options=options,
    )


def _cause(model: onnx.ModelProto, batches: Any, error: Exception) -> str:
    """Why the quantizer gave up; it only says "scale issue" where an activation is not finite."""
    ranges = _activation_ranges(model, batches)
    for name in (name for node in model.graph.node for name in node.output):
        if name in ranges and not np.isfinite(ranges[name]).all():
            return f"the activation '{name}' is not finite for these images; check the model's weights"
    return f"the model cannot be quantized ({first_line(error)}); profile it in fp32 or fp16"


def _check_scales(model: onnx.ModelProto) -> None:
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in model.graph.initializer:
        if tensor.name in scales and not np.isfinite(onnx.numpy_helper.to_array(tensor).astype(np.float64)).all():
            name = tensor.name.removesuffix("_scale")
            raise InvalidModel(f"the activation '{name}' is not finite for these images; check the model's weights")


def _cleaned(converted: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """`converted` with the metadata of `source`, and without notes of the tools that made it."""
    del converted.metadata_props[:]
    kept = {key: value for key, value in metadata(source).items() if key.startswith("backbench.")}
    converted.metadata_props.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in kept.items())
    converted.ClearField("doc_string")
    graph = converted.graph
    graph.ClearField("doc_string")
    del graph.value_info[:]
    for part in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    return converted


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Put every node after those whose results it takes; others keep their order. ONNX demands it."""
    made = {name for node in graph.node for name in node.output if name}
    waiting = [(node, {name for name in _taken(node) if name in made}) for node in graph.node]
    ready: set[str] = set()
    ordered: list[onnx.NodeProto] = []
    while waiting:
        left = []
        for node, needs in waiting:
            if needs <= ready:
                ordered.append(node)
                ready.update(node.output)
            else:
                left.append((node, needs))
        if len(left) == len(waiting):
            raise InvalidModel("the graph has a cycle; export the model again")
        waiting = left
    copies = [_copy(node) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _taken(node: onnx.NodeProto) -> set[str]:
    """What a node takes, its sub-graphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for child in inner.node:
                names |= _taken(child)
    return names


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
