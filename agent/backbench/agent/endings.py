"""How a process that was to do something ended, said in a typed failure with a remedy."""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Sequence
from pathlib import Path

from backbench.domain.run import FailureReason, RunFailure

_VMSTAT = Path("/proc/vmstat")
_NO_MEMORY = ("bad_alloc", "Memory allocation", "Cannot allocate memory", "cannot allocate memory", "MemoryError")
"""What libraries say in their last words when a limit stops them before they can raise anything."""
_LACKS = {
    errno.ENOSPC: FailureReason.DISK_FULL,
    errno.EDQUOT: FailureReason.DISK_FULL,
    errno.ENOMEM: FailureReason.OUT_OF_MEMORY,
}
_CRASHES = {
    signal.SIGSEGV: "a library touched memory that is not its own",
    signal.SIGABRT: "a library gave up",
    signal.SIGFPE: "a library divided by zero",
    signal.SIGBUS: "a page of memory or of a file could not be got, as when the disk is full or damaged",
}


def failure_of(
    status: int, tail: Sequence[str], stage: str, *, memory_limited: bool = False, oom_killed: bool = False
) -> RunFailure:
    """The failure of a process that ended with `status`, negative for a signal; `tail` is what it said last.

    `stage` is what it was at. A process with a memory limit of its own has hit it where its last words say so;
    `oom_killed` says that the kernel was seen killing for lack of memory.
    """
    lines = tuple(tail)
    if memory_limited and any(words in line for line in lines for words in _NO_MEMORY):
        message = f"out of memory in phase {stage}: {lines[-1]}; raise --memory-limit"
        return _failure(FailureReason.OUT_OF_MEMORY, message, status, lines)
    if status < 0:
        return _signalled(status, lines, stage, memory_limited, oom_killed)
    last = lines[-1] if lines else "nothing on its standard error"
    return _failure(
        FailureReason.WORKER_CRASHED, f"the worker exited with status {status} in stage {stage}: {last}", status, lines
    )


def not_started(error: OSError) -> RunFailure:
    """The failure of a process that could not even be started."""
    message = f"no process could be started for the run ({error.strerror}); free what it lacks, and run it again"
    return RunFailure(_LACKS.get(error.errno or 0, FailureReason.WORKER_CRASHED), message)


def oom_kill_count() -> int:
    """How many processes the kernel has killed for lack of memory since it started; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in _VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def ending_words(status: int | None, last_line: str) -> str:
    """How a helper of the agent ended, in a few words: "was ended by SIGKILL"."""
    if status is not None and status < 0:
        return f"was ended by {_signal_name(-status)}"
    return f"exited with status {status}{': ' if last_line else ''}{last_line}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _signalled(status: int, lines: tuple[str, ...], stage: str, memory_limited: bool, oom_killed: bool) -> RunFailure:
    number = -status
    name = _signal_name(number)
    if number == signal.SIGKILL and oom_killed:
        remedy = ", or raise --memory-limit" if memory_limited else ""
        message = f"out of memory in phase {stage}: the kernel killed the worker; use a smaller model or size{remedy}"
        return _failure(FailureReason.OUT_OF_MEMORY, message, status, lines)
    if number == signal.SIGILL:
        message = (
            f"illegal instruction in stage {stage}: this build of the backend's library uses instructions that this"
            " processor lacks; install a build that is made for it"
        )
        return _failure(FailureReason.ILLEGAL_INSTRUCTION, message, status, lines)
    if number in _CRASHES:
        why = _CRASHES[signal.Signals(number)]
        message = (
            f"the worker crashed with {name} in stage {stage}: {why}; frames until then are kept. Try another version"
            " of the backend, or another model"
        )
        return _failure(FailureReason.WORKER_CRASHED, message, status, lines)
    message = f"the worker was ended by {name} in stage {stage}; frames until then are kept. Run it again"
    return _failure(FailureReason.WORKER_CRASHED, message, status, lines)


def _failure(reason: FailureReason, message: str, status: int, lines: tuple[str, ...]) -> RunFailure:
    return RunFailure(
        reason, message, signal=-status if status < 0 else None, exit_status=status if status > 0 else None,
        log_tail=lines,
    )  # fmt: skip
