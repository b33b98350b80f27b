"""What a process that touches a model gives up before it does so, that a damaged or hostile model reaches little.

A worker needs its model, memory, threads and the pipes to the agent: no network, no files to write, no privileges.
All of it together takes about a millisecond at the start of the process, and nothing later.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_OPEN_FILES = 1024
_PROCESSES = 16384
"""Of the whole user: threads count, and so do the programs of others with the same user. A bound for a fork bomb."""
_PROC = Path("/proc")


def isolate(largest_file_bytes: int) -> str:
    """Isolate this process, which must have one thread yet; returns what holds, "no_new_privs,rlimits,network".

    It can write no file larger than `largest_file_bytes`: anonymous memory that is mapped, pipes and /proc are not
    affected. It is killed when its parent ends; whether that has happened already is for the caller to check. Where the
    machine runs out of memory it goes first, and not the agent.
    """
    sys.dont_write_bytecode = True
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    held = []
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        held.append("no_new_privs")
    # 1, not 0: with 0 the kernel would still feed the whole process to a crash handler, where one is installed.
    _limit(resource.RLIMIT_CORE, 1)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_NPROC, _PROCESSES)
    _limit(resource.RLIMIT_FSIZE, largest_file_bytes)
    held.append("rlimits")
    if _leave_network(libc):
        held.append("network")
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what detaches itself stays among its descendants
    with contextlib.suppress(OSError):
        (_PROC / "self/oom_score_adj").write_text("1000")
    return ",".join(held)


def _limit(which: int, value: int) -> None:
    """Lower a limit for good; one that is lower already stays."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _leave_network(libc: ctypes.CDLL) -> bool:
    """Move into a network of this process's own that reaches nothing; False where the kernel does not let it."""
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    if not _may_have_user_namespace():
        return False
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # In a user namespace of its own the process is who it was before; without these lines only the names would differ.
    with contextlib.suppress(OSError):
        (_PROC / "self/setgroups").write_text("deny")
        (_PROC / "self/uid_map").write_text(f"{user} {user} 1")
        (_PROC / "self/gid_map").write_text(f"{group} {group} 1")
    return True


def _may_have_user_namespace() -> bool:
    """Not where AppArmor gives it without its rights: files made in it could not be written then."""
    try:
        restricted = (_PROC / "sys/kernel/apparmor_restrict_unprivileged_userns").read_text().strip()
    except OSError:
        return True
    return restricted == "0"
