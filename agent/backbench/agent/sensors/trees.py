"""This machine as a tree, a folder in its place, and how the recordings that can take their place are opened."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import os
import re
import signal
import stat
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from backbench.agent.sensors.firmware import answer_mailbox
from backbench.agent.sensors.tree import Stream, Tree

ERRORS_FILE = ".errors"
"""In the root of an unpacked recording: the reads that fail there, an errno's name and a path a line."""
_HELD_AT_MOST = 512
_FILE_BYTES = 1 << 20
_PAGE_BYTES = 4096
_WHOLE_BELOW = 1024
"""A read that brings less is the whole file, and to ask for its end would read the sensor again; more may be a part."""
_GONE = (errno.ENODEV, errno.ESRCH, errno.ENXIO, errno.ESTALE)
_LINKS_AT_MOST = 40
_OF_THE_KERNEL = ("proc/", "sys/")
_OF_A_PROCESS = re.compile(r"proc/(self|thread-self|\d+)(/|$)")


def open_tree(simulation: str, epoch_ns: int) -> Tree:
    """The tree by name: "" is this machine, else a recording, whose timeline starts at `epoch_ns` (CLOCK_MONOTONIC).

    Raises InvalidArgument for a name that nothing has, and for a file that is no recording.
    """
    if not simulation:
        return LiveTree()
    from backbench.agent.sensors.simulations import open_simulation

    return open_simulation(simulation, epoch_ns)


class LiveTree:
    """This machine. What the kernel shows and is asked for again and again is read through a descriptor that is kept.

    Such a read costs about a tenth of one that opens the file first.
    """

    simulated = False

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._once: set[str] = set()
        self._devices: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """One attempt; a device that went away and came back under the same path is opened anew."""
        if (descriptor := self._held.get(path)) is not None:
            try:
                return _content(descriptor)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                os.close(self._held.pop(path))
        descriptor = _open(f"/{path}")
        if path in self._once and path.startswith(_OF_THE_KERNEL):
            self._hold(path, descriptor)
            return _content(descriptor)
        try:
            content = _content(descriptor)
        finally:
            os.close(descriptor)
        if len(self._once) < 16 * _HELD_AT_MOST:
            self._once.add(path)
        return content

    def glob(self, pattern: str) -> list[str]:
        """What is there now; a folder that cannot be listed holds nothing."""
        return expand(pattern, lambda folder: _names(f"/{folder}"), lambda path: _exists(f"/{path}"))

    def run(self, argv: Sequence[str], timeout_s: float = 1.0) -> bytes:
        """Without a shell, in the C locale, and killed with all that it started when its time is up."""
        with _started(argv) as process:
            try:
                return process.communicate(timeout=timeout_s)[0]
            except subprocess.TimeoutExpired:
                raise OSError(errno.ETIMEDOUT, f"no end within {timeout_s:g} s", argv[0]) from None
            finally:
                _end(process)

    def stream(self, argv: Sequence[str]) -> Stream:
        """Its lines come without waiting for them."""
        return _Lines(_started(argv))

    def ioctl(self, path: str, request: int, buffer: bytearray) -> None:
        """Through a descriptor that is kept."""
        if path not in self._devices:
            self._devices[path] = _open(f"/{path}")
        fcntl.ioctl(self._devices[path], request, buffer, True)

    def close(self) -> None:
        """Close every descriptor."""
        for descriptors in (self._held, self._devices):
            while descriptors:
                os.close(descriptors.popitem()[1])

    def _hold(self, path: str, descriptor: int) -> None:
        if len(self._held) >= _HELD_AT_MOST:
            os.close(self._held.pop(next(iter(self._held))))
        self._held[path] = descriptor


class RecordedTree(ABC):
    """A recorded board. Processes are this machine's, as it is here that they run."""

    simulated = True

    def __init__(self) -> None:
        self._processes = LiveTree()

    @abstractmethod
    def recorded(self, path: str) -> bytes:
        """What a file said. Raises the error that was recorded."""

    @abstractmethod
    def matching(self, pattern: str) -> list[str]:
        """The files and folders that were recorded and match."""

    def read(self, path: str) -> bytes:
        """The file's content, or the error that was recorded."""
        return self._processes.read(path) if is_of_a_process(path) else self.recorded(path)

    def glob(self, pattern: str) -> list[str]:
        """As on a machine; files whose reading fails are there all the same."""
        return self._processes.glob(pattern) if is_of_a_process(pattern) else self.matching(pattern)

    def run(self, argv: Sequence[str], timeout_s: float = 1.0) -> bytes:  # noqa: ARG002
        """What the command printed when it was recorded."""
        return self.read(command_path(argv))

    def stream(self, argv: Sequence[str]) -> Stream:
        """The last line that was recorded, again and again."""
        return RecordedLines(self.read, argv)

    def ioctl(self, path: str, request: int, buffer: bytearray) -> None:
        """A Raspberry Pi's mailbox, as far as its commands were recorded."""
        answer_mailbox(self, path, request, buffer)

    def close(self) -> None:
        """Close what is read of this machine."""
        self._processes.close()


class RootTree(RecordedTree):
    """A recorded board that was unpacked into a folder. Nothing outside the folder is read, whatever its links say."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._failures = _failures(root / ERRORS_FILE)

    def recorded(self, path: str) -> bytes:
        """See `RecordedTree.recorded`."""
        if code := self._failures.get(path):
            raise error_of(code, path)
        descriptor = _open(self._resolved(path))
        try:
            return _content(descriptor)
        finally:
            os.close(descriptor)

    def matching(self, pattern: str) -> list[str]:
        """See `RecordedTree.matching`."""
        return expand(pattern, self._names, self._exists)

    def _names(self, folder: str) -> list[str]:
        try:
            return _names(self._resolved(folder))
        except OSError:
            return []

    def _exists(self, path: str) -> bool:
        try:
            return path != ERRORS_FILE and _exists(self._resolved(path))
        except OSError:
            return False

    def _resolved(self, path: str) -> str:
        """The place of a path below the root, links followed as if the root were the machine's."""
        ahead, place, links = path.split("/")[::-1], self._root, 0
        while ahead:
            name = ahead.pop()
            if name in ("", "."):
                continue
            if name == "..":
                place = place if place == self._root else place.parent
                continue
            try:
                target = os.readlink(place / name)  # noqa: PTH115
            except (OSError, ValueError):
                place = place / name
                continue
            links += 1
            if links > _LINKS_AT_MOST:
                raise OSError(errno.ELOOP, "too many links", path)
            place = self._root if target.startswith("/") else place
            ahead += target.split("/")[::-1]
        return str(place)


class RecordedLines:
    """A command that goes on, of which a part was recorded: its newest line is that part's last one."""

    def __init__(self, read: Callable[[str], bytes], argv: Sequence[str]) -> None:
        self._read = read
        self._path = next((path for path in (command_path(argv), command_path(argv[:1])) if self._there(path)), "")
        if not self._path:
            raise OSError(errno.ENOENT, "no such command was recorded", command_path(argv))

    def latest(self) -> bytes | None:
        """The same line until a timeline puts another in its place."""
        lines = self._read(self._path).splitlines()
        return lines[-1] if lines else None

    def close(self) -> None:
        """Nothing runs."""

    def _there(self, path: str) -> bool:
        try:
            self._read(path)
        except OSError as error:
            return error.errno != errno.ENOENT
        return True


def command_path(argv: Sequence[str]) -> str:
    """Where the output of a command is kept in a recording."""
    return f"cmd/{' '.join(argv)}"


def is_of_a_process(path: str) -> bool:
    """Whether a path is about a process, which runs on this machine even where the board is a recording."""
    return _OF_A_PROCESS.match(path) is not None


def error_of(code: str, path: str) -> OSError:
    """The error with the name that a recording gives."""
    number = getattr(errno, code)
    return OSError(number, os.strerror(number), path)


def expand(pattern: str, names: Callable[[str], Iterable[str]], exists: Callable[[str], bool]) -> list[str]:
    """The paths that match; a "*" stands for a part of one name. Numbers are in the order of numbers."""
    found = [""]
    for part in pattern.split("/"):
        found = [f"{folder}/{name}".removeprefix("/") for folder in found for name in _matching(part, folder, names)]
    return sorted((path for path in found if exists(path)), key=_by_number)


def _matching(part: str, folder: str, names: Callable[[str], Iterable[str]]) -> list[str]:
    if not re.search(r"[*?\[]", part):
        return [part]
    found = (name for name in names(folder) if not name.startswith(".") or part.startswith("."))
    return [name for name in found if fnmatch.fnmatchcase(name, part)]


def _by_number(path: str) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", path)]


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a NUL in it, or a name that cannot be encoded
        raise OSError(errno.EINVAL, str(error), path) from error


def _content(descriptor: int) -> bytes:
    content = os.pread(descriptor, _PAGE_BYTES, 0)
    if len(content) < _WHOLE_BELOW:
        return content
    parts = [content]
    size = len(content)
    while size < _FILE_BYTES:
        part = os.pread(descriptor, 16 * _PAGE_BYTES, size)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise OSError(errno.EFBIG, f"more than {_FILE_BYTES} bytes")


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except (OSError, ValueError):
        return []


def _exists(path: str) -> bool:
    try:
        return stat.S_IFMT(os.stat(path).st_mode) != 0  # noqa: PTH116
    except (OSError, ValueError):
        return False


def _failures(file: Path) -> Mapping[str, str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {path: code for code, _, path in (line.partition(" ") for line in lines)}


def _started(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}
    environment["PATH"] = f"{environment.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # where nvpmodel is
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command with what it started, as long as its number is still its own."""
    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Lines:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        self._process = process
        self._output = process.stdout
        self._begun = b""
        os.set_blocking(self._output.fileno(), False)

    def latest(self) -> bytes | None:
        """Whatever came since the last call, but for its last whole line, is dropped."""
        newest, ended = None, False
        while not ended:
            try:
                data = os.read(self._output.fileno(), 65536)
            except BlockingIOError:
                return newest
            except ValueError as error:
                raise OSError(errno.EBADF, "closed") from error
            ended = not data
            *lines, self._begun = (self._begun[-65536:] + data).split(b"\n")
            newest = lines[-1] if lines else newest
        if newest is None:
            raise OSError(errno.EPIPE, "the command has ended", str(self._process.args))
        return newest

    def close(self) -> None:
        """Kill it."""
        _end(self._process)
        self._output.close()
