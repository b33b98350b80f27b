"""Which backends execute the models of a plan, with which options, and who brings a model to the asked precision."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backbench.controller.export.exporter import Conversion
from backbench.domain.device import Backend, Device
from backbench.domain.errors import BackendUnavailable, InvalidArgument, UnknownBackend, VersionMismatch
from backbench.domain.run import BackendSpec

AS_MODEL = "as-model"
"""Whatever precision the model has."""
BF16 = "bf16"
"""The precision that only a backend brings about: nothing here converts a model to it."""
DEFAULT_BACKEND = BackendSpec().name
BACKEND_OPTIONS = "backend-options"
"""The feature of agents that give options to their backends, and let them choose a precision or fall back."""
_LONGEST_OPTION = 64
"""Characters that an agent takes as an option's value."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the words ask of every backend: its precision, and options by name with their values as text."""

    precision: str = AS_MODEL
    threads: int | None = None
    spin: bool = True
    options: Mapping[str, str] | None = None
    allow_fallback: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """How a backend comes to what it executes: what becomes of a model before, and what is asked of the backend."""

    backend: Backend
    spec: BackendSpec
    conversion: Conversion


def parse_options(texts: Iterable[str], dla: int | None, cuda_graph: bool) -> dict[str, str]:
    """Options by name, from NAME=VALUE and the two that have a flag of their own. Raises InvalidArgument."""
    options: dict[str, str] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not name or not value or len(value) > _LONGEST_OPTION or not value.isprintable():
            raise InvalidArgument(f'--backend-option "{text[:80]}" is not NAME=VALUE, such as workspace=2GB')
        _put(options, name, value)
    if dla is not None:
        if not 0 <= dla <= 15:
            raise InvalidArgument(f"--dla is {dla}; it must be the number of a core, from 0 up")
        _put(options, "dla", str(dla))
    if cuda_graph:
        _put(options, "cuda-graph", "yes")
    return options


def check_names(names: Sequence[str]) -> None:
    """Raises InvalidArgument for a backend that is named twice."""
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f"--backend {name} is given {names.count(name)} times; give each backend once")


def routes(conversions: Mapping[str, Conversion], asked: Asked, device: Device, device_name: str) -> tuple[Route, ...]:
    """A route for each backend; `conversions` are by their names, what a model is made into for each.

    Raises UnknownBackend, BackendUnavailable with the device's reason, VersionMismatch for an agent that is too old,
    InvalidArgument for an option or a precision that no named backend takes.
    """
    backends = [_found(name, device, device_name) for name in conversions]
    options = asked.options or {}
    _check_age(asked, device, device_name)
    _check_options(options, backends, device_name)
    return tuple(_route(each, conversions[each.name], asked, device_name) for each in backends)


def set_aside(found: Iterable[Route], options: Mapping[str, str]) -> list[str]:
    """Lines about options that not every backend has: each goes to those alone that have it."""
    lines = []
    for name in options:
        without = [route.backend.name for route in found if name not in route.backend.options]
        if without:
            lines.append(f"option {name} is none of {', '.join(without)}; it goes to the other backends alone")
    return lines


def _found(name: str, device: Device, device_name: str) -> Backend:
    known = {backend.name: backend for backend in device.backends}
    backend = known.get(name)
    if backend is None:
        raise UnknownBackend(f'--backend "{name}": {device_name} has no such backend; it has {", ".join(known)}')
    if not backend.available:
        raise BackendUnavailable(f"{device_name} cannot open backend {name}: {backend.reason}")
    return backend


def _check_age(asked: Asked, device: Device, device_name: str) -> None:
    if BACKEND_OPTIONS in device.features:
        return
    words = "options of backends" if asked.options else "--allow-fallback" if asked.allow_fallback else ""
    if words:
        raise VersionMismatch(f"the agent on {device_name} does not know {words}; update Backbench on the device")


def _check_options(options: Mapping[str, str], backends: Sequence[Backend], device_name: str) -> None:
    known = sorted({name for backend in backends for name in backend.options})
    for name in options:
        if name not in known:
            names = ", ".join(backend.name for backend in backends)
            close = difflib.get_close_matches(name, known, 1, 0.6)
            hint = f"; did you mean {close[0]}?" if close else ""
            there = f"the options are {', '.join(known)}" if known else "it takes none"
            raise InvalidArgument(f'option "{name}": {names} on {device_name} has no such option; {there}{hint}')


def _route(backend: Backend, conversion: Conversion, asked: Asked, device_name: str) -> Route:
    precision = ""
    if asked.precision in backend.engine_precisions:
        precision, conversion = asked.precision, Conversion()
    elif asked.precision == BF16:
        chosen = ", ".join(backend.engine_precisions)
        takes = f"it computes in {chosen} where asked" if chosen else "it computes in what the model holds"
        raise InvalidArgument(f"--precision {BF16}: {backend.name} on {device_name} does not choose that; {takes}")
    options = {name: value for name, value in (asked.options or {}).items() if name in backend.options}
    spec = BackendSpec(backend.name, asked.threads, asked.spin, options, asked.allow_fallback, precision)
    return Route(backend, spec, conversion)


def _put(options: dict[str, str], name: str, value: str) -> None:
    if options.setdefault(name, value) != value:
        raise InvalidArgument(f"option {name} is given as {options[name]} and as {value}; give it once")
