"""Energy counters of x86 processors."""

from __future__ import annotations

import errno

from tests.fakes.trees import Content, Files

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.powercap import PowerCap

_Content = str | Content


def domain(name: str, kind: str, energy: _Content, wrap: _Content = "262143328850\n") -> dict[str, _Content]:
    folder = f"sys/class/powercap/{name}"
    return {f"{folder}/name": kind, f"{folder}/energy_uj": energy, f"{folder}/max_energy_range_uj": wrap}


def processor(place: int, count: _Content, package: _Content | None = None) -> dict[str, _Content]:
    folder = f"sys/devices/system/cpu/cpu{place}"
    files: dict[str, _Content] = {f"{folder}/thermal_throttle/package_throttle_count": count}
    if package is not None:
        files[f"{folder}/topology/physical_package_id"] = package
    return files


def test_a_domain_in_a_package_is_named_with_it() -> None:
    files = domain("intel-rapl:0", "package-0\n", "1\n") | domain("intel-rapl:0:0", "core\n", "2\n")
    files |= domain("intel-rapl:1", "package-1\n", "3\n") | domain("intel-rapl:1:0", "core\n", "4\n")
    files |= domain("intel-rapl:2", "psys\n", "5\n") | domain("intel-rapl-mmio:0", "package-0\n", "1\n")
    source = PowerCap(Files(files))
    assert [channel.scope.split(",")[0] for channel in source.probe().channels] == [
        "package", "core", "package", "core", "psys",
    ]  # fmt: skip
    assert source.read() == {
        "energy.package-0": 1,
        "energy.package-0.core": 2,
        "energy.package-1": 3,
        "energy.package-1.core": 4,
        "energy.psys": 5,
    }


def test_the_scope_tells_where_the_counter_wraps_and_the_counter_is_passed_on_as_it_is() -> None:
    tree = Files(domain("intel-rapl:0", "package-0\n", "262143318123\n"))
    source = PowerCap(tree)
    (channel,) = source.probe().channels
    assert (channel.unit, channel.kind, channel.scope) == ("uJ", "counter", "package, wraps at 262143328850 uJ")
    assert source.read() == {"energy.package-0": 262_143_318_123}
    tree.files["sys/class/powercap/intel-rapl:0/energy_uj"] = b"17\n"
    assert source.read() == {"energy.package-0": 17}


def test_an_unknown_wrap_is_not_stated() -> None:
    (channel,) = PowerCap(Files(domain("intel-rapl:0", "package-0\n", "1\n", errno.EACCES))).probe().channels
    assert channel.scope == "package"


def test_no_permission_names_the_cure() -> None:
    coverage = PowerCap(Files(domain("intel-rapl:0", "package-0\n", errno.EACCES))).probe()
    assert (coverage.state, coverage.channels) == ("denied", ())
    assert "chmod o+r" in coverage.reason


def test_what_may_be_read_is_read_beside_what_may_not() -> None:
    source = PowerCap(Files(domain("intel-rapl:0", "package-0\n", errno.EACCES) | processor(0, "12\n")))
    coverage = source.probe()
    assert coverage.state == "read"
    assert [(channel.name, channel.available) for channel in coverage.channels] == [
        ("energy.package-0", False),
        ("throttle.events.package", True),
    ]
    assert source.read() == {"energy.package-0": Unread("EACCES"), "throttle.events.package": 12}


def test_every_package_counts_once() -> None:
    files = processor(0, "12\n", "0\n") | processor(1, "12\n", "0\n") | processor(10, "5\n", "1\n")
    source = PowerCap(Files(files))
    source.probe()
    assert source.read() == {"throttle.events.package": 17}


def test_elsewhere_it_is_absent() -> None:
    source = PowerCap(Files({}))
    assert (source.probe().state, source.read()) == ("absent", {})
