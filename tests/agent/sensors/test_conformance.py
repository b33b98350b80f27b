"""What holds for every source, on every recorded board and on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest
from tests.fakes.trees import FAULTS, Faulty

from backbench.agent.sensors.base import Source, Unread, Value
from backbench.agent.sensors.table import EXTRA_SOURCES, SOURCES
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import LiveTree, open_tree
from backbench.domain.telemetry import UNITS

BOARDS = (
    "container-bare", "generic-x86-rapl", "jetson-agx-orin-jp51", "jetson-nano-jp451", "jetson-orin-nano-jp621",
    "jetson-thor-jp71", "jetson-xavier-nx-jp512", "rpi3bplus-softlimit", "rpi4-undervolt", "rpi5-bookworm",
)  # fmt: skip
ALL_SOURCES = {**SOURCES, **EXTRA_SOURCES}
_REASON = "(thermal|power|undervoltage|softlimit|frequency)"
_GPU = r"gpu\d*"
_VOCABULARY = {
    "mC": r"temp\.[a-z0-9_.-]+",
    "mW": r"power\.(rail\.[A-Za-z0-9_-]+|total)",
    "mV": r"power\.input",
    "uJ": r"energy\.[a-z0-9_.-]+",
    "Hz": rf"{_GPU}\.clock(_max|_min)?|emc\.clock|cpu\.clock(_max|_min|_delivered)?\.\w+",
    "permille": rf"{_GPU}\.util|emc\.util|cpu\.util(\.\d+)?|fan\.pwm(_\d+)?",
    "B": rf"mem\.(total|available|used|swap_used|gpu_shared|{_GPU}_used)|disk\.(read|written)|net\.(sent|received)",
    "us": r"psi\.(cpu|mem|io)\.(some|full)|cgroup\.throttled",
    "count": r"cgroup\.nr_throttled|throttle\.events\.(undervolt|oc_avg|oc_inst|package)|processes",
    "flag": rf"throttle\.{_REASON}\.(cooling|firmware|rpi_volt|nvml\d*|alarm)|throttle\.latched\.{_REASON}\.firmware"
    r"|throttle\.advisory\.hot_surface|mode\.clocks_pinned",
    "bits": r"throttle\.raw\.\w+",
    "rpm": r"fan\.rpm(_\d+)?",
    "id": r"mode\.power",
}
_KINDS = ("gauge", "counter", "state")
_KERNEL_SOURCES = ("proc", "thermal", "hwmon", "freq", "delivered", "powercap")


def machines() -> Iterator[tuple[str, Tree]]:
    yield "this machine", LiveTree()
    for board in BOARDS:
        yield board, open_tree(board, 0)


@pytest.mark.parametrize("name", ALL_SOURCES)
def test_a_source_keeps_to_its_interface_everywhere(name: str) -> None:
    for machine, tree in machines():
        source: Source = ALL_SOURCES[name](tree)
        assert source.name == name
        assert source.rate_hz > 0
        coverage = source.probe()
        channels = {channel.name: channel for channel in coverage.channels}
        assert len(channels) == len(coverage.channels), machine
        assert (coverage.state == "read") == bool(channels), machine
        assert bool(coverage.reason) != bool(channels), machine
        assert "\n" not in coverage.reason
        for channel in channels.values():
            assert channel.unit in UNITS
            assert channel.kind in _KINDS
            assert channel.available or channel.reason
            vocabulary = rf"{name}\..+" if channel.name.startswith(f"{name}.") else _VOCABULARY[channel.unit]
            assert re.fullmatch(vocabulary, channel.name), (machine, channel.name, channel.unit)
        for _ in range(2):
            values = source.read()
            assert set(values) == set(channels), machine
            for channel_name, value in values.items():
                assert isinstance(value, Unread) or -(2**63) <= value < 2**63, (machine, channel_name, value)
        source.close()
        source.close()


def test_no_channel_comes_from_two_sources() -> None:
    for machine, tree in machines():
        owners: dict[str, str] = {}
        for name, make in ALL_SOURCES.items():
            source = make(tree)
            for channel in source.probe().channels:
                assert channel.name not in owners, f"{machine}: {channel.name} of {name}"
                owners[channel.name] = name
            source.close()


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", _KERNEL_SOURCES)
def test_a_file_that_fails_makes_what_it_tells_unreadable_and_never_another_number(name: str, board: str) -> None:
    tree = Faulty(open_tree(board, 0))
    source = SOURCES[name](tree)
    described = {channel.name: channel for channel in source.probe().channels}
    clean = source.read()
    for path in dict.fromkeys(tree.asked):
        for fault, said in FAULTS.items():
            tree.files = {path: said}
            values = source.read()
            assert set(values) == set(described)
            assert unlike(values, clean) <= {Unread}, (path, fault, values)

            other = SOURCES[name](tree)
            same = {channel.name for channel in other.probe().channels if described.get(channel.name) == channel}
            values = other.read()
            assert unlike({key: values[key] for key in same}, clean) <= {Unread}, (path, fault, values)
            other.close()


def unlike(values: Mapping[str, Value], expected: Mapping[str, Value]) -> set[type]:
    """The kinds of the values that are not as expected."""
    return {type(value) for key, value in values.items() if value != expected[key]}


def test_this_machine_tells_what_it_lacks() -> None:
    coverages = {name: make(LiveTree()).probe() for name, make in SOURCES.items()}
    assert coverages["proc"].state == "read"
    assert {"mem.total", "mem.available", "mem.used", "cpu.util"} <= {
        channel.name for channel in coverages["proc"].channels
    }
    assert [name for name, coverage in coverages.items() if not coverage.channels and not coverage.reason] == []
