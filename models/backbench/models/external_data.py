"""Models that keep weights in files beside them: which files a graph names, and whether they hold what it says.

A model and its files are a bundle. A path that leaves the bundle, one that is not in it, and a link are refused. Where
files are given by hand no path is made of what a graph says: it only chooses among them.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import onnx.helper

from backbench.domain.errors import InvalidModel
from backbench.domain.external import check_locations
from backbench.models.onnx_file import LARGEST_FILE, StoredTensor, is_bulk, is_external, parsed_model, shown, tensors_in

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's bytes lie."""

    path: Path
    offset: int
    length: int

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                data = file.read(min(_CHUNK_BYTES, left))
                if not data:
                    raise InvalidModel(f"{self.path}: became shorter while it was read; copy the model again")
                left -= len(data)
                yield data


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model with its files. The weights that `is_bulk` names stay in these; all other tensors have their numbers.

    `locations` are the paths that the graph names, in order.
    """

    model: onnx.ModelProto
    locations: tuple[str, ...]
    places: Mapping[str, _Place]

    def stored(self) -> list[StoredTensor]:
        """The initialisers on their way into one file, those in other files read while they are written."""
        return [self._stored(tensor) for tensor in self.model.graph.initializer]

    def checkable(self) -> onnx.ModelProto:
        """The model as a checker takes it that does not look at files: weights in other files have become inputs."""
        if not self.places:
            return self.model
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.initializer[:]
        named = {value.name for value in model.graph.input}
        for tensor in self.model.graph.initializer:
            if not is_external(tensor):
                model.graph.initializer.append(tensor)
            elif tensor.name not in named:
                model.graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                )
        return model

    def _stored(self, tensor: onnx.TensorProto) -> StoredTensor:
        if not is_external(tensor):
            return StoredTensor(tensor)
        place = self.places[tensor.name]
        return StoredTensor(_without_place(tensor), place.length, partial(place.chunks))


def read_bundle(path: Path, files: Mapping[str, Path] | None = None) -> Bundle:
    """The model in `path` and its files: those given, by location, or those beside it.

    Raises InvalidModel, naming the path, for one that leaves the model's folder, that is missing or a link, that is
    given and not named by the graph or the other way round, and for a file that does not hold what the graph says.
    """
    model = parsed_model(path)
    external = [tensor for tensor in tensors_in(model) if is_external(tensor)]
    locations = tuple(dict.fromkeys(_entry(tensor, "location") for tensor in external))
    check_locations(locations, str(path))
    if files is None:
        files = {location: _beside(path, location) for location in locations}
    _check_same(path, locations, files)
    weights = {id(tensor) for tensor in model.graph.initializer}
    places, inlined = {}, 0
    for tensor in external:
        place = _place(path, tensor, files)
        if id(tensor) in weights and is_bulk(tensor):
            places[tensor.name] = place
            continue
        inlined += place.length
        if inlined > LARGEST_FILE:
            raise InvalidModel(f"{path}: its tables and constants take over 1.8 GB; one model holds up to that")
        tensor.CopyFrom(_without_place(tensor))
        tensor.raw_data = b"".join(place.chunks())
    return Bundle(model, locations, places)


def _check_same(path: Path, locations: tuple[str, ...], files: Mapping[str, Path]) -> None:
    for location in locations:
        if location not in files:
            raise InvalidModel(
                f"{path}: its weights lie in {location!a}, which did not come with it; push the model with its"
                " files, or save it as one file"
            )
    if unnamed := sorted(files.keys() - set(locations)):
        raise InvalidModel(f"{path}: no weights of it lie in {unnamed[0]!a}; push it without that file")


def _beside(path: Path, location: str) -> Path:
    """The file at a location beside a model; raises InvalidModel where there is none, or a link leads to it."""
    at = path.parent
    for part in location.split("/"):
        at = at / part
        try:
            kind = at.lstat().st_mode
        except OSError as error:
            raise InvalidModel(
                f"{path}: its weights lie in {at}, which cannot be read ({error.strerror}); copy the model with its"
                " files, or save it as one file"
            ) from error
        if stat.S_ISLNK(kind):
            raise InvalidModel(f"{path}: its weights lie in {at}, which is a link; put the file itself there")
    if not stat.S_ISREG(kind):
        raise InvalidModel(f"{path}: its weights lie in {at}, which is no file; copy the model again")
    return at


def _place(path: Path, tensor: onnx.TensorProto, files: Mapping[str, Path]) -> _Place:
    """Where a tensor's bytes lie; raises InvalidModel unless they are all there."""
    location = _entry(tensor, "location")
    file, name = files[location], shown(tensor.name)
    try:
        size = file.stat().st_size
        offset = int(_entry(tensor, "offset") or 0)
        needed = _needed(tensor)
        length = int(_entry(tensor, "length") or (size - offset if needed is None else needed))
    except OSError as error:
        raise InvalidModel(f"{path}: its weights in {location} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidModel(
            f"{path}: where the weights of '{name}' lie in {location} is no number; export or copy the model again"
        ) from error
    if offset < 0 or length < 0 or offset + length > size or (needed is not None and length != needed):
        raise InvalidModel(
            f"{path}: {location} does not hold the weights of '{name}': it has {size} bytes, and {needed or length}"
            f" from {offset} on are needed; export or copy the model again with its files"
        )
    return _Place(file, offset, length)


def _needed(tensor: onnx.TensorProto) -> int | None:
    """How many bytes a tensor's shape needs; None where several of its numbers share a byte."""
    if min(tensor.dims, default=1) < 0:
        raise ValueError("a negative length")
    try:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        raise ValueError("a type of numbers that this version does not know") from None
    return None if name.endswith(("INT4", "INT2", "E2M1")) else math.prod(tensor.dims) * int(width)


def _entry(tensor: onnx.TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _without_place(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    del copy.external_data[:]
    copy.ClearField("data_location")
    return copy
