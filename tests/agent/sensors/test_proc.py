"""Memory, load, pressure and quotas of the whole system."""

from __future__ import annotations

import errno

import pytest
from tests.fakes.trees import FAULTS, Content, Files

from backbench.agent.sensors.base import Unread, Value
from backbench.agent.sensors.proc import System

_Content = str | Content
_MEMORY = "MemTotal:        7802928 kB\nMemFree:          737636 kB\nMemAvailable:    4122040 kB\n"
_PRESSURE = "some avg10=1.20 avg60=0.80 avg300=0.33 total=99281791\n"
_KIB = 1024


def values(files: dict[str, _Content], simulated: bool = False) -> dict[str, Value]:
    source = System(Files(files, simulated))
    source.probe()
    return dict(source.read())


def stat(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows) + "intr 5 6 7\nctxt 99\nbtime 1\n"


def test_memory_is_in_bytes_and_used_is_what_is_not_available() -> None:
    swap = "SwapTotal:       2029472 kB\nSwapFree:        1814432 kB\nNvMapMemFree: 0 kB\nNvMapMemUsed: 36904 kB\n"
    assert values({"proc/meminfo": _MEMORY + swap}) == {
        "mem.total": 7802928 * _KIB,
        "mem.available": 4122040 * _KIB,
        "mem.used": (7802928 - 4122040) * _KIB,
        "mem.swap_used": (2029472 - 1814432) * _KIB,
        "mem.gpu_shared": 36904 * _KIB,
    }


def test_what_the_kernel_does_not_tell_has_no_channel() -> None:
    assert sorted(values({"proc/meminfo": _MEMORY})) == ["mem.available", "mem.total", "mem.used"]


def test_a_part_that_is_missing_later_is_unreadable() -> None:
    tree = Files({"proc/meminfo": _MEMORY})
    source = System(tree)
    source.probe()
    tree.files["proc/meminfo"] = b"MemTotal:        7802928 kB\nMemAvailable:    41"
    assert source.read() == {
        "mem.total": 7802928 * _KIB,
        "mem.available": Unread("EILSEQ"),
        "mem.used": Unread("EILSEQ"),
    }


def test_load_is_counted_from_the_probe_and_then_from_read_to_read() -> None:
    tree = Files({"proc/stat": stat("cpu  100 0 0 900 0 0 0 0 0 0", "cpu0 100 0 0 900 0 0 0 0 0 0")})
    source = System(tree)
    source.probe()
    tree.files["proc/stat"] = stat("cpu  120 5 25 940 10 0 0 0 0 0", "cpu0 200 0 0 900 0 0 0 0 0 0").encode()
    assert source.read() == {"cpu.util": 500, "cpu.util.0": 1000}
    tree.files["proc/stat"] = stat("cpu  120 5 25 950 20 0 0 20 0 0", "cpu0 200 0 0 1000 0 0 0 0 0 0").encode()
    assert source.read() == {"cpu.util": 500, "cpu.util.0": 0}


def test_time_of_guests_counts_once() -> None:
    tree = Files({"proc/stat": stat("cpu  0 0 0 0 0 0 0 0 0 0")})
    source = System(tree)
    source.probe()
    tree.files["proc/stat"] = stat("cpu  50 0 0 50 0 0 0 0 50 0").encode()
    assert source.read() == {"cpu.util": 500}


def test_a_load_of_no_time_is_unreadable_and_the_next_one_counts_it() -> None:
    tree = Files({"proc/stat": stat("cpu  0 0 0 0 0 0 0")})
    source = System(tree)
    source.probe()
    assert source.read() == {"cpu.util": Unread("EAGAIN")}
    tree.files["proc/stat"] = stat("cpu  1 0 0 3 0 0 0").encode()
    assert source.read() == {"cpu.util": 250}


def test_a_processor_that_is_switched_off_is_unreadable() -> None:
    tree = Files({"proc/stat": stat("cpu  0 0 0 0 0 0 0", "cpu0 0 0 0 0 0 0 0", "cpu1 0 0 0 0 0 0 0")})
    source = System(tree)
    source.probe()
    tree.files["proc/stat"] = stat("cpu  1 0 0 1 0 0 0", "cpu0 1 0 0 1 0 0 0").encode()
    assert source.read() == {"cpu.util": 500, "cpu.util.0": 500, "cpu.util.1": Unread("ENODEV")}


def test_ticks_that_go_backwards_are_no_load() -> None:
    tree = Files({"proc/stat": stat("cpu  500 0 0 500 0 0 0")})
    source = System(tree)
    source.probe()
    tree.files["proc/stat"] = stat("cpu  5 0 0 5 0 0 0").encode()
    assert source.read() == {"cpu.util": Unread("ERANGE")}
    tree.files["proc/stat"] = stat("cpu  6 0 0 8 0 0 0").encode()
    assert source.read() == {"cpu.util": 250}


def test_pressure_is_the_total_time_and_not_an_average() -> None:
    full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=19022\n"
    files: dict[str, _Content] = {"proc/pressure/cpu": _PRESSURE, "proc/pressure/memory": _PRESSURE + full}
    assert values(files) == {"psi.cpu.some": 99281791, "psi.mem.some": 99281791, "psi.mem.full": 19022}


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOENT])
def test_pressure_that_is_switched_off_has_no_channel(code: int) -> None:
    assert values({"proc/pressure/cpu": code, "proc/pressure/io": _PRESSURE}) == {"psi.io.some": 99281791}


def test_quotas_of_the_agents_group_and_those_above_add_up() -> None:
    files: dict[str, _Content] = {
        "proc/self/cgroup": "0::/system.slice/backbench.service\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 5\n",
        "sys/fs/cgroup/system.slice/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 2\nthrottled_usec 300\n",
        "sys/fs/cgroup/system.slice/backbench.service/cpu.stat": "nr_throttled 17\nthrottled_usec 903120\n",
        "sys/fs/cgroup/other.service/cpu.stat": "nr_throttled 1000\nthrottled_usec 1000\n",
    }
    assert values(files) == {"cgroup.throttled": 903420, "cgroup.nr_throttled": 19}


def test_groups_of_the_older_kind_are_not_read() -> None:
    files: dict[str, _Content] = {
        "proc/self/cgroup": "4:cpu:/a\n0::/\n",
        "sys/fs/cgroup/cpu.stat": "nr_throttled 17\nthrottled_usec 903120\n",
    }
    assert values(files) == {}


def test_of_a_recorded_board_the_recorded_group_is_read() -> None:
    files: dict[str, _Content] = {
        "proc/self/cgroup": "0::/elsewhere\n",
        "sys/fs/cgroup/bench.scope/cpu.stat": "nr_throttled 17\nthrottled_usec 903120\n",
    }
    assert values(files, simulated=True) == {"cgroup.throttled": 903120, "cgroup.nr_throttled": 17}


@pytest.mark.parametrize("said", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("path", ["proc/meminfo", "proc/stat", "proc/pressure/io", "sys/fs/cgroup/a/cpu.stat"])
def test_a_file_that_fails_between_two_reads_is_unreadable_and_then_told_again(path: str, said: Content) -> None:
    tree = Files(
        {
            "proc/meminfo": _MEMORY,
            "proc/stat": stat("cpu  0 0 0 0 0 0 0"),
            "proc/pressure/io": _PRESSURE,
            "sys/fs/cgroup/a/cpu.stat": "nr_throttled 17\nthrottled_usec 903120\n",
        },
        simulated=True,
    )
    source = System(tree)
    source.probe()
    tree.files["proc/stat"] = stat("cpu  1 0 0 1 0 0 0").encode()
    healthy = dict(tree.files)
    tree.files[path] = said
    failed = source.read()
    tree.files = healthy | {"proc/stat": stat("cpu  2 0 0 2 0 0 0").encode()}
    told = source.read()
    assert told["cpu.util"] == 500
    changed = {name for name, value in failed.items() if value != told[name]}
    assert changed
    assert all(isinstance(failed[name], Unread) for name in changed)


def test_a_machine_without_proc_says_so() -> None:
    assert System(Files({})).probe().state == "absent"
