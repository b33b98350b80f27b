"""ONNX files on disk: reading them with suspicion, writing them in pieces and all or nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import onnx.defs
from google.protobuf.message import DecodeError

from backbench.domain.errors import InvalidModel
from backbench.models.whole_file import written_whole

LARGEST_FILE = 1_800_000_000
"""Bytes; a protobuf message ends at 2 GiB, and ONNX Runtime needs some room below that."""

FLOAT_TYPES = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
)
_BULK_TYPES = (*FLOAT_TYPES, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_BULK = 1024
_MODEL_GRAPH, _MODEL_METADATA, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 14, 5, 9


def first_line(error: BaseException) -> str:
    """The first line of an exception's text that says something, without the end of a long one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0], longest=200) if lines else type(error).__name__


def shown(text: str, longest: int = 60) -> str:
    """A model's text for an error's one line: without the end of a long one, and with nothing that breaks the line."""
    short = text if len(text) <= longest else f"{text[:longest]}..."
    return short if short.isprintable() else repr(short)[1:-1]


def read_model(path: Path) -> onnx.ModelProto:
    """The model in `path` with its weights; raises InvalidModel where the file holds none, or only a part of one."""
    model = parsed_model(path)
    if any(is_external(tensor) for tensor in tensors_in(model)):
        raise InvalidModel(f"{path}: its weights lie in another file; save it again as one file: external_data=False")
    return model


def parsed_model(path: Path) -> onnx.ModelProto:
    """The model in `path`, whose weights may lie in other files; raises InvalidModel as `read_model` does."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if not data:
        raise InvalidModel(f"{path}: the file is empty; export or copy the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModel(f"{path}: not an ONNX model, or a truncated one; export or copy the model again") from error
    if not _texts_are_sound(model):
        raise InvalidModel(f"{path}: the ONNX model is damaged (a name is no text); export or copy the model again")
    if not model.graph.node or not model.graph.input or not model.graph.output:
        raise InvalidModel(f"{path}: not an ONNX model (it has no graph); give the path of an .onnx file")
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        raise InvalidModel(f"{path}: the ONNX model is truncated (no opset); export or copy the model again")
    _check_versions(model, path)
    return model


def tensors_in(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor in a model or a part of one, those in attributes, functions and sub-graphs included."""
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        for each in value if field.is_repeated else (value,):
            if isinstance(each, onnx.TensorProto):
                yield each
            else:
                yield from tensors_in(each)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's numbers lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def is_bulk(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor holds weights, and many: their numbers say nothing of the graph's shapes."""
    return tensor.data_type in _BULK_TYPES and math.prod(tensor.dims) >= _BULK


def _check_versions(model: onnx.ModelProto, path: Path) -> None:
    """Raise InvalidModel for a model that is newer than the onnx here."""
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    for what, has, reads in (("IR version", model.ir_version, onnx.IR_VERSION), ("opset", opset, newest)):
        if has > reads:
            raise InvalidModel(
                f"{path}: its {what} {has} is newer than {reads}, the newest that onnx {onnx.__version__} knows;"
                f" export it with an older {what}, or update onnx"
            )


def _texts_are_sound(message: Any) -> bool:
    """Whether every text in a message is UTF-8: parsing lets another pass, and hands it out as bytes."""
    if isinstance(message, onnx.TensorProto):
        texts = [message.name, *(text for entry in message.external_data for text in (entry.key, entry.value))]
        return all(isinstance(text, str) for text in texts)
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == field.TYPE_MESSAGE and not all(map(_texts_are_sound, values)):
            return False
        if field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
    return True


def has_metadata(path: Path, key: str) -> bool:
    """Whether the model in `path` carries `key` in its metadata, told by hopping over everything else in the file."""
    wanted = key.encode()
    try:
        with path.open("rb") as file:
            return any(_entry_key(file.read(length)) == wanted for length in _metadata_lengths(file))
    except (OSError, ValueError):
        return False


def _metadata_lengths(file: BinaryIO) -> Iterator[int]:
    """Stop at the start of each metadata entry and yield its length; ValueError where the bytes are no protobuf."""
    size = os.fstat(file.fileno()).st_size
    while file.tell() < size:
        number, wire_type = divmod(_read_varint(file), 8)
        if wire_type == 0:
            _read_varint(file)
            continue
        if wire_type != 2:
            raise ValueError("a field that no ONNX model has")
        length = _read_varint(file)
        end = file.tell() + length
        if end > size:
            raise ValueError("the last field is cut short")
        if number == _MODEL_METADATA:
            yield length
        file.seek(end)


def _entry_key(data: bytes) -> bytes:
    entry = onnx.StringStringEntryProto()
    try:
        entry.ParseFromString(data)
    except DecodeError:
        return b""
    key: str = entry.key
    return key.encode()


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("no varint")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An initialiser on its way into a file: the message, and raw data that is made only while it is written."""

    message: onnx.TensorProto
    raw_size: int = 0
    raw_chunks: Callable[[], Iterator[bytes]] | None = None

    def size(self) -> int:
        """How many bytes the whole message takes."""
        raw = len(_field(_TENSOR_RAW_DATA, self.raw_size)) + self.raw_size if self.raw_chunks else 0
        head: int = self.message.ByteSize()
        return head + raw

    def pieces(self) -> Iterator[bytes]:
        """The message's bytes, in order."""
        yield self.message.SerializeToString(deterministic=True)
        if self.raw_chunks:
            yield _field(_TENSOR_RAW_DATA, self.raw_size)
            yield from self.raw_chunks()


def write_model(destination: Path, frame: onnx.ModelProto, tensors: list[StoredTensor]) -> None:
    """Write `frame`, a model without initialisers, together with `tensors`, one of these in memory at a time.

    A protobuf parser takes a message's fields in any order, so the graph's length is summed up first and its
    initialisers follow the rest of it. Opset and metadata come last: a file that is cut short lacks them.
    """
    graph = frame.graph.SerializeToString(deterministic=True)
    head, tail = onnx.ModelProto(), onnx.ModelProto()
    head.CopyFrom(frame)
    for name in ("graph", "opset_import", "metadata_props", "functions"):
        head.ClearField(name)
    tail.opset_import.extend(frame.opset_import)
    tail.metadata_props.extend(frame.metadata_props)
    tail.functions.extend(frame.functions)
    sizes = [tensor.size() for tensor in tensors]
    graph_size = len(graph) + sum(len(_field(_GRAPH_INITIALIZER, size)) + size for size in sizes)
    if graph_size > LARGEST_FILE:
        raise InvalidModel(
            f"{destination.name}: the model takes {graph_size / 1e9:.1f} GB; one file holds up to 1.8 GB"
        )
    with written_whole(destination) as file:
        file.write(head.SerializeToString(deterministic=True))
        file.write(_field(_MODEL_GRAPH, graph_size))
        file.write(graph)
        for tensor, size in zip(tensors, sizes, strict=True):
            file.write(_field(_GRAPH_INITIALIZER, size))
            for piece in tensor.pieces():
                file.write(piece)
        file.write(tail.SerializeToString(deterministic=True))


def _field(number: int, length: int) -> bytes:
    """The tag and length prefix of a length-delimited field."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
