"""Clocks, load and policies."""

from __future__ import annotations

import errno

import pytest
from tests.fakes.trees import Content, Files

from backbench.agent.sensors.base import Unread, Value
from backbench.agent.sensors.freq import Clocks, DeliveredClocks

_Content = str | Content
_DEVFREQ = "sys/class/devfreq"


def policy(place: int, **files: _Content) -> dict[str, _Content]:
    return {f"sys/devices/system/cpu/cpufreq/policy{place}/{file}": said for file, said in files.items()}


def gpu(name: str, **files: _Content) -> dict[str, _Content]:
    return {f"{_DEVFREQ}/{name}/{file}": said for file, said in files.items()}


def values(files: dict[str, _Content]) -> dict[str, Value]:
    source = Clocks(Files(files))
    source.probe()
    return dict(source.read())


def test_requested_clocks_and_their_limits_are_in_hertz() -> None:
    files = policy(0, scaling_cur_freq="1344000\n", scaling_min_freq="729600\n", scaling_max_freq="1728000\n")
    assert values(files) == {
        "cpu.clock.policy0": 1_344_000_000,
        "cpu.clock_min.policy0": 729_600_000,
        "cpu.clock_max.policy0": 1_728_000_000,
        "mode.clocks_pinned": 0,
    }


def test_the_delivered_clock_is_kept_apart_from_the_requested_one() -> None:
    source = DeliveredClocks(Files(policy(4, scaling_cur_freq="1800000\n", cpuinfo_cur_freq="600117\n")))
    (channel,) = source.probe().channels
    assert (channel.name, channel.method, channel.available) == ("cpu.clock_delivered.policy4", "measured", True)
    assert source.read() == {"cpu.clock_delivered.policy4": 600_117_000}


def test_a_clock_that_root_alone_may_read_is_there_and_says_so() -> None:
    source = DeliveredClocks(Files(policy(0, cpuinfo_cur_freq=errno.EACCES)))
    (channel,) = source.probe().channels
    assert not channel.available
    assert "root" in channel.reason
    assert source.read() == {"cpu.clock_delivered.policy0": Unread("EACCES")}


def test_without_measured_clocks_the_source_is_absent() -> None:
    source = DeliveredClocks(Files(policy(0, scaling_cur_freq="1\n")))
    assert (source.probe().state, source.read()) == ("absent", {})


@pytest.mark.parametrize(
    "name",
    ["57000000.gpu", "17000000.gv11b", "17000000.ga10b", "17000000.gp10b", "17000000.gpu", "gpu-gpc-0", "fb000000.gpu"],
)
def test_the_gpu_of_every_board_is_known_by_its_name(name: str) -> None:
    files = gpu(name, cur_freq="306000000\n", min_freq="306000000\n", max_freq="1020000000\n")
    files |= gpu("15340000.vic", cur_freq="1\n", max_freq="2\n") | gpu("gpu-nvd-0", cur_freq="3\n")
    assert values(files) == {
        "gpu.clock": 306_000_000,
        "gpu.clock_min": 306_000_000,
        "gpu.clock_max": 1_020_000_000,
        "mode.clocks_pinned": 0,
    }


def test_a_gated_gpu_has_no_clock_instead_of_one_of_0_hertz() -> None:
    assert values(gpu("gpu-gpc-0", cur_freq="0\n", max_freq="1575000000\n")) == {
        "gpu.clock": Unread("EAGAIN"),
        "gpu.clock_max": 1_575_000_000,
    }


@pytest.mark.parametrize(
    "path",
    [f"{_DEVFREQ}/17000000.ga10b/device/load", "sys/devices/gpu.0/load", "sys/devices/17000000.gv11b/load",
     "sys/devices/platform/17000000.ga10b/load", "sys/devices/platform/bus@0/17000000.gpu/load",
     "sys/devices/platform/gpu.0/load"],
)  # fmt: skip
def test_the_load_is_found_where_the_release_has_it(path: str) -> None:
    files = gpu("17000000.ga10b", cur_freq="306000000\n")
    assert values(files | {path: "48\n"})["gpu.util"] == 48
    assert values(files | {path: "1001\n"})["gpu.util"] == Unread("ERANGE")
    assert "gpu.util" not in values(files)


@pytest.mark.parametrize(
    "path",
    [
        "sys/kernel/debug/bpmp/debug/clk/emc/rate",
        f"{_DEVFREQ}/bwmgr/cur_freq",
        "sys/kernel/debug/clk/override.emc/clk_rate",
    ],
)
def test_the_clock_of_the_memory_is_found_where_the_release_has_it(path: str) -> None:
    assert values({path: "2133000000\n"}) == {"emc.clock": 2_133_000_000}


@pytest.mark.parametrize(
    ("said", "mode"),
    [("pmode:0001\n", 1), ("pmode:0000", 0), ("pmode:0010 fmode:quiet\n", 10), ("fmode:quiet\n", None), ("1\n", None)],
)
def test_the_power_mode_is_read_from_the_file_of_its_state(said: str, mode: int | None) -> None:
    expected = Unread("EILSEQ") if mode is None else mode
    assert values({"var/lib/nvpmodel/status": said}) == {"mode.power": expected}


def test_clocks_are_pinned_only_if_all_of_them_are() -> None:
    pinned = policy(0, scaling_min_freq="1728000\n", scaling_max_freq="1728000\n")
    free = policy(4, scaling_min_freq="729600\n", scaling_max_freq="1728000\n")
    unreadable = policy(8, scaling_min_freq=errno.EACCES, scaling_max_freq="1728000\n")
    graphics = gpu("17000000.gpu", cur_freq="5\n", min_freq="5\n", max_freq="5\n")
    assert values(pinned | graphics)["mode.clocks_pinned"] == 1
    assert values(pinned | free)["mode.clocks_pinned"] == 0
    assert values(pinned | unreadable)["mode.clocks_pinned"] == Unread("EACCES")
    assert values(pinned | unreadable | free)["mode.clocks_pinned"] == 0
    assert "mode.clocks_pinned" not in values(policy(0, scaling_max_freq="1728000\n"))


def test_a_machine_without_clocks_says_so() -> None:
    coverage = Clocks(Files({})).probe()
    assert (coverage.state, coverage.channels) == ("absent", ())
    assert "virtual machine" in coverage.reason
