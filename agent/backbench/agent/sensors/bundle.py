"""A recorded board: one text file that holds what its files said, which commands printed, and what could not be read.

    #! where this comes from
    ## proc/device-tree/compatible +nul
    raspberrypi,5-model-b
    brcm,bcm2712
    ## sys/class/thermal/thermal_zone1/temp !EAGAIN
    ## cmd/vcgencmd get_throttled
    throttled=0x0

`## PATH` starts a file, every line of which ends with a newline; with ` +nul` each ends with a NUL instead, and with
` !ERRNO` there are none, as reading it fails so. `cmd/...` is what a command printed. Lines with `#!` are comments, and
at least one has to say where the recording is from.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.trees import (
    ERRORS_FILE,
    RecordedTree,
    RootTree,
    error_of,
    expand,
)
from backbench.domain.errors import InvalidArgument

BUNDLE_BYTES = 4 << 20
Content = bytes | Unread
"""What reading a file gives, or the error that it gives."""
_HEADER = re.compile(r"## (.+?)(?: ([+!]\S*))?")
_COMMENT = "#!"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A board by name: where its recording is from, and its files by path."""

    name: str
    provenance: tuple[str, ...]
    files: Mapping[str, Content]

    def having(self, changes: Mapping[str, Content | None]) -> Bundle:
        """The same with other contents, with errors in their place, and, for None, without files."""
        files = {**self.files, **changes}
        return replace(self, files={path: content for path, content in files.items() if content is not None})


def parse(text: str | bytes, name: str = "bundle") -> Bundle:
    """The board that a bundle's text describes. Raises InvalidArgument that names file and line."""
    return _Parser(name).parsed(_decoded(text, name))


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file, named as the file is. Raises InvalidArgument."""
    try:
        with path.open("rb") as file:
            text = file.read(BUNDLE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgument(f"{path} cannot be read: {reason}") from error
    return replace(parse(text, str(path)), name=path.stem)


def render(bundle: Bundle) -> str:
    """The text of a bundle, the inverse of `parse`. Raises InvalidArgument for what a bundle cannot hold."""
    lines = [f"{_COMMENT} {line}" for line in bundle.provenance]
    for path, content in bundle.files.items():
        lines += rendered_file(path, content)
    return "".join(f"{line}\n" for line in lines)


def rendered_file(path: str, content: Content) -> list[str]:
    """The lines of one file. Raises InvalidArgument for content that a bundle cannot hold."""
    if fault := path_fault(path):
        raise InvalidArgument(f'"{path}" {fault}')
    if isinstance(content, Unread):
        return [f"## {path} !{content.code}"]
    end = "\0" if content.endswith(b"\0") else "\n"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f'"{path}" is no UTF-8 text') from error
    lines = text.split(end)
    if lines.pop() or any(line.startswith(("## ", _COMMENT)) or re.search(r"[\n\0]|\r$", line) for line in lines):
        raise InvalidArgument(f'"{path}" holds what a bundle cannot')
    return [f"## {path} +nul" if end == "\0" else f"## {path}", *lines]


def unpack(bundle: Bundle, folder: Path) -> RootTree:
    """Write a bundle's files into an empty folder, and what fails into a list beside them."""
    failures: list[str] = []
    for path, content in bundle.files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Unread):
            failures.append(f"{content.code} {path}\n")
        file.write_bytes(b"" if isinstance(content, Unread) else content)
    (folder / ERRORS_FILE).write_text("".join(failures), encoding="utf-8")
    return RootTree(folder)


class BundleTree(RecordedTree):
    """A recorded board in memory."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self._state = State(bundle.files)

    def recorded(self, path: str) -> bytes:
        """See `RecordedTree.recorded`."""
        return self._now().read(path)

    def matching(self, pattern: str) -> list[str]:
        """See `RecordedTree.matching`."""
        state = self._now()
        return expand(pattern, state.names, state.exists)

    def _now(self) -> State:
        return self._state


class State:
    """A recorded board's files, and the folders that they are in, at one moment."""

    def __init__(self, files: Mapping[str, Content]) -> None:
        self._files = files
        self._folders: dict[str, dict[str, None]] = {"": {}}
        for path in files:
            while path:
                folder, _, name = path.rpartition("/")
                self._folders.setdefault(folder, {})[name] = None
                path = folder  # noqa: PLW2901

    def read(self, path: str) -> bytes:
        """A file's content. Raises the error that was recorded, ENOENT and EISDIR."""
        content = self._files.get(path)
        if content is None:
            raise error_of("EISDIR" if path in self._folders else "ENOENT", path)
        if isinstance(content, Unread):
            raise error_of(content.code, path)
        return content

    def names(self, folder: str) -> Iterable[str]:
        """What is in a folder."""
        return self._folders.get(folder, ())

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return path in self._files or path in self._folders


class _Parser:
    def __init__(self, name: str) -> None:
        self._name = name
        self._line = 0
        self._provenance: list[str] = []
        self._files: dict[str, Content] = {}
        self._starts: dict[str, int] = {}
        self._path = ""
        self._end: str | None = None
        self._lines: list[str] = []

    def parsed(self, text: str) -> Bundle:
        lines = text.replace("\r\n", "\n").split("\n")
        if not lines[-1]:
            lines.pop()
        for self._line, line in enumerate(lines, 1):
            if line.startswith(_COMMENT):
                self._comment(line)
            elif line.startswith("## "):
                self._finish()
                self._begin(line)
            else:
                self._take(line)
        self._finish()
        if not self._provenance:
            self._line = 1
            raise self._fault(f'nothing says where it comes from; begin it with "{_COMMENT} source: ..."')
        return Bundle(self._name, tuple(self._provenance), self._files)

    def _comment(self, line: str) -> None:
        if text := line.removeprefix(_COMMENT).strip():
            self._provenance.append(text)

    def _begin(self, line: str) -> None:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise self._fault("a path has to follow ##")
        self._path, flag = found[1], found[2] or ""
        if fault := path_fault(self._path):
            raise self._fault(f'"{self._path}" {fault}')
        if self._path in self._starts:
            raise self._fault(f'"{self._path}" was in line {self._starts[self._path]} already')
        self._check_folders()
        self._starts[self._path] = self._line
        self._end = {"": "\n", "+nul": "\0"}.get(flag)
        if self._end is None:
            if not flag.startswith("!"):
                raise self._fault(f'unknown flag "{flag}"; there are +nul and !ERRNO')
            if not is_errno(flag[1:]):
                raise self._fault(f'unknown errno "{flag[1:]}"; write for example !EAGAIN')
            self._files[self._path] = Unread(flag[1:])

    def _check_folders(self) -> None:
        folder = self._path.rpartition("/")[0]
        while folder:
            if folder in self._starts:
                raise self._fault(f'"{self._path}" is below "{folder}", which is a file in line {self._starts[folder]}')
            folder = folder.rpartition("/")[0]
        below = next((path for path in self._starts if path.startswith(f"{self._path}/")), None)
        if below is not None:
            raise self._fault(f'"{self._path}" is a folder in line {self._starts[below]}')

    def _take(self, line: str) -> None:
        if not self._path:
            if line.strip():
                raise self._fault("content before the first path; a file starts with ## PATH")
            return
        if self._end is None:
            raise self._fault(f'content after "{self._path}", the reading of which fails')
        if "\0" in line:
            raise self._fault("a NUL; write ## PATH +nul, and a line for each part")
        self._lines.append(line)

    def _finish(self) -> None:
        if self._path and self._end is not None:
            self._files[self._path] = "".join(f"{line}{self._end}" for line in self._lines).encode()
        self._lines = []

    def _fault(self, text: str) -> InvalidArgument:
        return InvalidArgument(printable(f"{self._name}, line {self._line}: {text}"))


def printable(message: str) -> str:
    """A message that quotes from a file, in one line of a bearable length."""
    return "".join(character if character.isprintable() else "?" for character in message[:400])


def is_errno(code: str) -> bool:
    """Whether this system knows an error by that name."""
    return code[:1] == "E" and isinstance(getattr(errno, code, None), int)


def path_fault(path: str) -> str:
    """Why a recording cannot have a file there; "" if it can."""
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        return "leaves the root or is no plain path; write it as sys/class/..."
    if path == ERRORS_FILE or re.search(r"[\0\n\r]| [+!]\S*$", path) or path != path.strip(" "):
        return "is no path that a bundle can hold"
    if len(path.encode()) > 1024 or any(len(part.encode()) > 255 for part in path.split("/")):
        return "is too long"
    return ""


def _decoded(text: str | bytes, name: str) -> str:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > BUNDLE_BYTES:
        raise InvalidArgument(f"{name} is too big for a bundle: more than {BUNDLE_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidArgument(f"{name}, line {line}: not UTF-8 text") from error
