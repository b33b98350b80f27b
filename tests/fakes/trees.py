"""Trees for tests: one of a few files, and one that makes another one's files fail."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence

from backbench.agent.sensors.tree import Stream, Tree

Content = bytes | int
"""What a file says; a number is the errno with which it is refused."""
FAULTS: Mapping[str, Content] = {
    "EAGAIN": errno.EAGAIN,
    "EACCES": errno.EACCES,
    "ENODEV": errno.ENODEV,
    "NUL bytes": b"\0\0\0\0\n",
    "nothing": b"",
    "a broken line": b"\n",
    "bytes that are no text": b"\xff\xfe\x80\n",
    "words": b"no number: 12x 0x0 1e3 -\n",
    "a number that is too big": b"9" * 40 + b"\n",
}


class Files:
    """A machine of these files alone."""

    def __init__(self, files: Mapping[str, str | Content], simulated: bool = False) -> None:
        self.files = {path: said.encode() if isinstance(said, str) else said for path, said in files.items()}
        self.simulated = simulated

    def read(self, path: str) -> bytes:
        """What the file says, or its refusal."""
        return answer(self.files.get(path, errno.ENOENT))

    def glob(self, pattern: str) -> list[str]:
        """Its files and folders that match."""
        matching = re.compile("[^/]*".join(re.escape(part) for part in pattern.split("*")))
        paths = {"/".join(path.split("/")[: depth + 1]) for path in self.files for depth in range(path.count("/") + 1)}
        return sorted((path for path in paths if matching.fullmatch(path)), key=_by_numbers)

    def run(self, argv: Sequence[str], timeout_s: float = 1.0) -> bytes:  # noqa: ARG002
        """It has no commands."""
        raise FileNotFoundError(errno.ENOENT, "not installed", argv[0])

    def stream(self, argv: Sequence[str]) -> Stream:
        """It has no commands."""
        raise FileNotFoundError(errno.ENOENT, "not installed", argv[0])

    def ioctl(self, path: str, request: int, buffer: bytearray) -> None:  # noqa: ARG002
        """It has no devices."""
        raise FileNotFoundError(errno.ENOENT, "no device", path)

    def close(self) -> None:
        """Nothing is held."""


class Faulty(Files):
    """Another tree's files, some of which say something else; `asked` are the paths that were read."""

    def __init__(self, tree: Tree) -> None:
        super().__init__({}, tree.simulated)
        self._tree = tree
        self.asked: list[str] = []

    def read(self, path: str) -> bytes:
        """The fault, where there is one for this path."""
        self.asked.append(path)
        return answer(self.files[path]) if path in self.files else self._tree.read(path)

    def glob(self, pattern: str) -> list[str]:
        """As the other tree has it: a file that fails is there."""
        return self._tree.glob(pattern)


def answer(said: Content) -> bytes:
    """What a file says, or its refusal."""
    if isinstance(said, int):
        raise OSError(said, "refused")
    return said


def _by_numbers(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]
