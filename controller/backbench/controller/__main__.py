"""The command on the workstation: `backbench`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any, NoReturn

from backbench.controller.cli.output import print_note
from backbench.domain.errors import BackbenchError

# What these mean is that a path was named wrongly.
_WRONG_PATH = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. Never raises but for SIGTERM."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines would mix with the answer
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    stdout = sys.stdout
    sys.stdout = _Unbroken(stdout)
    try:
        return _run(arguments)
    finally:
        sys.stdout.flush()
        sys.stdout = stdout


def _run(arguments: list[str] | None) -> int:
    try:
        from backbench.controller.cli.app import app

        status = app(args=arguments, prog_name="backbench", standalone_mode=False)
    except BackbenchError as error:
        return _failed(error.message, error.exit_status)
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        return _failed("memory ran out; take a smaller model or size, or a larger machine", 2)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _failed(f"{name}{error.strerror or error}", 2 if isinstance(error, _WRONG_PATH) else 3)
    except Exception as error:  # noqa: BLE001 - the edge of the process
        return _unexpected(error)
    return status if isinstance(status, int) else 0


def _unexpected(error: Exception) -> int:
    if type(error).__name__ == "Abort":
        return 130
    # Typer's usage errors have another class in every generation of Typer; what they can do is the same.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "backbench"
        return _failed(f"{error.format_message().rstrip('. ')}; see {command} --help", 2)
    if os.environ.get("BACKBENCH_DEBUG"):
        traceback.print_exception(error)
    return _failed(
        f"{type(error).__name__}: {error}; this is a bug in Backbench: BACKBENCH_DEBUG=1 shows where, please report it",
        3,
    )


def _failed(text: str, status: int) -> int:
    print_note(f"error: {' '.join(text.split())}")
    return status


def _terminated(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    """End by way of every `finally`."""
    raise SystemExit(128 + number)


class _Unbroken:
    """Standard output that goes on into nothing when nobody reads it any more, as in `backbench run list | head`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or pretend to."""
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            self._to_nothing()
            return len(text)

    def flush(self) -> None:
        """Flush, or pretend to."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._to_nothing()

    def _to_nothing(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
