"""The measuring workers, seen from outside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest
from tests.fakes.trees import FAULTS, Content, Files

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.worker import WorkerProcesses
from backbench.domain.telemetry import WORKER_MEMORY

_Content = str | Content
_CLIENTS = """CLIENT                        PROCESS      PID        SIZE
user                         gnome-shell     1907       5704K
user                         python3     4242     412340K
user                         a name 2     4242     1M
total                                              445108K
"""
_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


def process(pid: int, anonymous: int, waited: tuple[int, ...] = (7,), name: str = "python3") -> dict[str, _Content]:
    status = f"Name:\t{name}\nVmHWM:\t     900 kB\nVmRSS:\t     800 kB\nRssAnon:\t     {anonymous} kB\n"
    files: dict[str, _Content] = {
        f"proc/{pid}/status": status,
        f"proc/{pid}/stat": f"{pid} ({name}) S 1 1 1 0 -1 4194560 900 0 5 0 30 12 0 0 20 0 3 0 18446744073709\n",
    }
    for place, wait in enumerate(waited):
        folder = f"proc/{pid}/task/{pid + place}"
        files[f"{folder}/schedstat"] = f"1000 {wait} 3\n"
        files[f"{folder}/status"] = "voluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t4\n"
    return files


def test_between_workers_nothing_is_read() -> None:
    source = WorkerProcesses()
    names = {channel.name for channel in source.probe().channels}
    assert set(source.read()) == names
    assert set(source.read().values()) == {Unread("ESRCH")}
    source.begin(os.getpid())
    anonymous = source.read()[WORKER_MEMORY]
    assert isinstance(anonymous, int)
    assert anonymous > 1_000_000
    source.end(os.getpid())
    assert set(source.read().values()) == {Unread("ESRCH")}


def test_everything_that_the_kernel_tells_of_a_process_is_read() -> None:
    source = WorkerProcesses(Files(process(100, 50, waited=(7, 11))))
    source.probe()
    source.begin(100)
    assert source.read() == {
        "proc.rss": 800 * 1024,
        "proc.peak_rss": 900 * 1024,
        "proc.anonymous": 50 * 1024,
        "proc.cpu_time": 42 * _TICK_NS,
        "proc.majflt": 5,
        "proc.wait_time": 18,
        "proc.ctx_invol": 8,
    }


def test_a_name_of_brackets_and_numbers_does_not_shift_the_fields() -> None:
    source = WorkerProcesses(Files(process(100, 50, name="a) R 1 (2 3)")))
    source.probe()
    source.begin(100)
    assert source.read()["proc.majflt"] == 5


def test_several_workers_add_up_and_one_that_cannot_be_read_makes_the_sum_unknown() -> None:
    tree = Files(process(1, 100) | process(20, 50))
    source = WorkerProcesses(tree)
    source.probe()
    source.begin(1)
    source.begin(20)
    assert source.read()[WORKER_MEMORY] == 150 * 1024
    source.begin(300)
    assert source.read()[WORKER_MEMORY] == Unread("ENOENT")
    source.end(300)
    tree.files["proc/20/status"] = errno.ESRCH
    assert source.read()[WORKER_MEMORY] == Unread("ESRCH")


def test_a_thread_that_has_just_ended_is_left_out() -> None:
    tree = Files(process(100, 50, waited=(7, 11)))
    tree.files["proc/100/task/101/schedstat"] = errno.ESRCH
    source = WorkerProcesses(tree)
    source.probe()
    source.begin(100)
    assert source.read()["proc.wait_time"] == 7


@pytest.mark.parametrize("said", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("file", ["status", "stat", "task/100/schedstat", "task/100/status"])
def test_a_file_that_fails_makes_its_sums_unreadable(file: str, said: Content) -> None:
    tree = Files(process(100, 50))
    source = WorkerProcesses(tree)
    source.probe()
    source.begin(100)
    clean = source.read()
    tree.files[f"proc/100/{file}"] = said
    changed = {name: value for name, value in source.read().items() if value != clean[name]}
    assert changed
    assert all(isinstance(value, Unread) for value in changed.values())


def test_memory_of_the_gpu_is_read_where_the_kernel_lists_it() -> None:
    source = WorkerProcesses(
        Files(process(4242, 1) | process(7, 1) | {"sys/kernel/debug/nvmap/iovmm/clients": _CLIENTS})
    )
    assert "proc.gpu_mem" in {channel.name for channel in source.probe().channels}
    assert source.read()["proc.gpu_mem"] == Unread("ESRCH")
    source.begin(4242)
    assert source.read()["proc.gpu_mem"] == 412340 * 1024 + (1 << 20)
    source.begin(7)
    assert source.read()["proc.gpu_mem"] == Unread("ESRCH")


def test_a_worker_that_has_died_is_unreadable_and_no_trouble() -> None:
    source = WorkerProcesses()
    source.probe()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        source.begin(worker.pid)
        deadline = time.monotonic() + 20
        while isinstance(source.read()["proc.rss"], Unread):
            assert time.monotonic() < deadline
        worker.communicate(b"\n")
    assert all(isinstance(value, Unread) for value in source.read().values())
    source.close()
    source.close()
