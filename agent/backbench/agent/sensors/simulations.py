"""The recorded boards and timelines that come with the agent, by name, and those in files of the user's."""

from __future__ import annotations

from pathlib import Path

from backbench.agent.sensors.bundle import Bundle, BundleTree, read_bundle
from backbench.agent.sensors.timeline import TimelineTree, read_timeline
from backbench.agent.sensors.tree import Tree
from backbench.domain.errors import InvalidArgument

_BUNDLES = Path(__file__).with_name("bundles")
_TIMELINES = Path(__file__).with_name("timelines")
_FAMILY = "jetson-"
"""May be left out of a board's name."""


def known_simulations() -> tuple[str, ...]:
    """Every name that `open_tree` takes: boards first, then timelines."""
    return (*_stems(_BUNDLES, ".bundle"), *_stems(_TIMELINES, ".toml"))


def resolve_simulation(text: str) -> str:
    """The full name of a recording, or the absolute path of one in a file, after a look whether it can be replayed.

    A name may be cut short as long as one board alone begins so; `jetson-` may be left out. Raises InvalidArgument.
    """
    if not text:
        raise InvalidArgument(f"the name of a simulation is empty; there are {', '.join(known_simulations())}")
    path = _path_of(text)
    open_simulation(str(path), 0).close()
    return path.stem if path.parent in (_BUNDLES, _TIMELINES) else str(path)


def simulation_name(resolved: str) -> str:
    """How results name a recording: by the file's name, without folder and ending."""
    return Path(resolved).stem if _is_path(resolved) else resolved


def open_simulation(text: str, epoch_ns: int) -> Tree:
    """The recording as a tree; a timeline's clock starts at `epoch_ns`. Raises InvalidArgument."""
    path = _path_of(text)
    if path.suffix == ".toml":
        return TimelineTree(read_timeline(path, lambda base: _base(base, path.parent)), epoch_ns)
    return BundleTree(read_bundle(path))


def _base(name: str, folder: Path) -> Bundle:
    return read_bundle(folder / name if _is_path(name) else _named(name, _stems(_BUNDLES, ".bundle")))


def _path_of(text: str) -> Path:
    return Path(text).absolute() if _is_path(text) else _named(text, known_simulations())


def _is_path(text: str) -> bool:
    return "/" in text or text.endswith((".bundle", ".toml"))


def _named(text: str, names: tuple[str, ...]) -> Path:
    boards = [name for name in _stems(_BUNDLES, ".bundle") if name.startswith((text, f"{_FAMILY}{text}"))]
    matching = [text] if text in names else boards or [name for name in names if name.startswith(text)]
    if len(matching) != 1:
        fault = f'"{text}" is the beginning of several' if matching else f'no recorded board is called "{text}"'
        raise InvalidArgument(f"{fault}; there are {', '.join(matching or names)}")
    path = _BUNDLES / f"{matching[0]}.bundle"
    return path if path.exists() else _TIMELINES / f"{matching[0]}.toml"


def _stems(folder: Path, suffix: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob(f"*{suffix}")))
