"""Checks files before they are committed: `--text FILE...` for their line ends, `--size FILE...` for their size."""

from __future__ import annotations

import sys
from pathlib import Path

MAX_BYTES = 1_000_000


def text_problem(path: Path) -> str | None:
    """What is wrong with the ends of a file and of its lines."""
    data = path.read_bytes()
    if data and (not data.endswith(b"\n") or data.endswith(b"\n\n")):
        return "does not end with exactly one newline"
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line != line.rstrip():
            return f"line {number} ends with white space"
    return None


def size_problem(path: Path) -> str | None:
    """Whether a file is one that git should not carry, such as a model with its weights."""
    size = path.stat().st_size
    return f"has {size} bytes, more than {MAX_BYTES}; artifacts do not belong into git" if size > MAX_BYTES else None


def main(arguments: list[str]) -> int:
    problem_of = {"--text": text_problem, "--size": size_problem}[arguments[0]]
    found = [(name, problem) for name in arguments[1:] if (problem := problem_of(Path(name)))]
    for name, problem in found:
        print(f"{name}: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
