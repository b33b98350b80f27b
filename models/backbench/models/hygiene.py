"""Taking away from a model what tells where and how it was made, and nothing that it needs."""

from __future__ import annotations

import hashlib

import onnx

_OWN = "backbench."


def strip(model: onnx.ModelProto) -> None:
    """Remove, in place, texts, traces and intermediate shapes; metadata is kept only under keys of Backbench's own."""
    kept = [entry for entry in model.metadata_props if entry.key.startswith(_OWN)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.ClearField("doc_string")
    del model.training_info[:]
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
        del function.value_info[:]
        for attribute in function.attribute_proto:
            _strip_attribute(attribute)
        for node in function.node:
            _strip_node(node)
    _strip_graph(model.graph)


def content_sha256(model: onnx.ModelProto) -> str:
    """The digest of what is computed: of the model without its metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        value.ClearField("doc_string")
        del value.metadata_props[:]
    for tensor in graph.initializer:
        _strip_tensor(tensor)
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    node.ClearField("doc_string")
    del node.metadata_props[:]
    for attribute in node.attribute:
        _strip_attribute(attribute)


def _strip_attribute(attribute: onnx.AttributeProto) -> None:
    attribute.ClearField("doc_string")
    for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
        _strip_tensor(tensor)
    for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
        _strip_graph(graph)


def _strip_tensor(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("doc_string")
    del tensor.metadata_props[:]
