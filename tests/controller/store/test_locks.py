"""Locks of a store, between real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backbench.controller.store.locks import take

HOLDER = """
import sys, time
from pathlib import Path
from backbench.controller.store.locks import take
lock = take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_one_processs_and_its_file_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "run.lock"
    process = holder(path)
    assert take(path, patience_s=0) is None
    process.communicate("\n")
    assert not path.exists()
    lock = take(path, patience_s=0)
    assert lock is not None
    assert take(path, patience_s=0) is None
    lock.release()
    assert not path.exists()


def test_the_lock_of_a_killed_process_leaves_its_file_and_can_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "run.lock"
    process = holder(path)
    process.kill()
    process.communicate()
    assert path.exists()
    lock = take(path, patience_s=0)
    assert lock is not None
    lock.release()


def test_a_lock_that_is_held_for_a_moment_only_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    process = holder(path)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    lock = take(path, patience_s=20)
    assert lock is not None
    lock.release()
    process.communicate()
