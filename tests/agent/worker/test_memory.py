"""VmHWM, reset at will: transients are caught, and a parent's size is not inherited."""

from __future__ import annotations

import subprocess
import sys

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
