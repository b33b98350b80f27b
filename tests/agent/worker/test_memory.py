"""VmHWM, reset at will: transients are caught, and a parent's size is not inherited. And a limit that holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backbench.agent.worker import memory

_TRANSIENT = """
from backbench.agent.worker import memory
import mmap
assert memory.reset_peak()
before = memory.read_memory()
block = mmap.mmap(-1, 50_000_000)
for place in range(0, len(block), mmap.PAGESIZE):
    block[place] = 1
block.close()
after = memory.read_memory()
memory.reset_peak()
print(after["VmHWM"] - before["VmRSS"], memory.read_memory()["VmHWM"] - before["VmRSS"])
"""
_PARENT = """
import subprocess, sys
ballast = bytearray(600_000_000)
ballast[::4096] = b"x" * len(ballast[::4096])
child = "from backbench.agent.worker import memory; print(memory.read_memory()['VmHWM'])"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)
"""


def output(code: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_transient_of_50_mb_is_caught_within_1_mb_and_forgotten_after_a_reset() -> None:
    caught, after_reset = output(_TRANSIENT)
    assert abs(caught - 50_000_000) < 1_000_000
    assert after_reset < 2_000_000


def test_a_parent_of_600_mb_does_not_leak_into_its_childs_figure() -> None:
    (peak,) = output(_PARENT)
    assert peak < 40_000_000


def machine(root: Path, cgroup: str = "/agent/run") -> dict[str, Path]:
    """A /proc and a control group of version 2, as files."""
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/smaps_rollup").write_text(
        "5581-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  3000 kB\nPss:  2000 kB\n"
        "Private_Clean:  300 kB\nPrivate_Dirty:  700 kB\nSwapPss:  5 kB\n"
    )
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    (proc / "self/cgroup").write_text(f"4:memory:/elsewhere\n0::{cgroup}\n")
    (cgroups / "agent/run").mkdir(parents=True)
    (cgroups / "agent/run/memory.peak").write_text("123456789\n")
    (cgroups / "agent/run/memory.current").write_text("100000000\n")
    return {"proc": proc, "cgroups": cgroups}


def test_shares_are_bytes_and_uss_is_what_is_private(tmp_path: Path) -> None:
    assert memory.read_shares(**machine(tmp_path)) == {
        "Pss": 2_048_000, "SwapPss": 5120, "Uss": 1_024_000, "MemAvailable": 4_096_000,
        "memory.peak": 123_456_789, "memory.current": 100_000_000,
    }  # fmt: skip


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    places = machine(tmp_path, cgroup="/gone")
    (places["proc"] / "self/smaps_rollup").unlink()
    assert memory.read_shares(**places) == {"MemAvailable": 4_096_000}


def test_the_shares_of_this_process_add_up() -> None:
    figures = memory.read_shares()
    assert 0 < figures["Uss"] <= figures["Pss"]
    assert figures["MemAvailable"] > 0


def test_the_limit_of_the_control_group_is_told(tmp_path: Path) -> None:
    places = machine(tmp_path)
    assert memory.group_limit(**places) == "unknown bytes by the control group"
    (places["cgroups"] / "agent/run/memory.max").write_text("255995904\n")
    assert memory.group_limit(**places) == "255995904 bytes by the control group"


_LIMITED = """
from backbench.agent.worker import memory
print(memory.apply_memory_limit({limit}).replace(" ", "_"))
import mmap
try:
    mmap.mmap(-1, 300_000_000, flags=mmap.MAP_PRIVATE)
except (OSError, MemoryError) as error:
    print(memory.lack_of_memory(error) is not None)
"""


def test_a_limit_holds_what_is_asked_for_beyond_it() -> None:
    code = _LIMITED.format(limit=200_000_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["200000000_bytes_by_RLIMIT_DATA", "True"]


@pytest.mark.parametrize(
    "words",
    [
        "std::bad_alloc",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc Failed to allocate memory for requested buffer",
        "[Errno 12] Cannot allocate memory",
        "CUDA failure 2: out of memory",
        "Unable to allocate 381. MiB for an array",
    ],
)
def test_a_lack_of_memory_is_known_by_its_words_however_deep(words: str) -> None:
    cause = RuntimeError(words)
    wrapped = ValueError("the model does not run")
    wrapped.__cause__ = cause
    assert memory.lack_of_memory(cause) is cause
    assert memory.lack_of_memory(wrapped) is cause


def test_other_errors_are_no_lack_of_memory() -> None:
    assert memory.lack_of_memory(RuntimeError("INVALID_ARGUMENT : Got invalid dimensions for input")) is None
    lacking = MemoryError()
    assert memory.lack_of_memory(lacking) is lacking
