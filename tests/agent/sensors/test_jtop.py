"""jetson-stats' own client against a stand-in for its service: real sockets, the real package, a real bridge."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from backbench.agent.sensors.base import Unread, Value
from backbench.agent.sensors.jtop import Jtop

VERSION = importlib.metadata.version("jetson-stats")
OLD_VERSION = "4.3.2"
SERVICE = Path(__file__).parents[2] / "fakes" / "fake_jtop.py"


class NoTree:
    """jtop reads nothing by a tree; it asks only whether it is a recording."""

    simulated = False


@pytest.fixture
def socket(tmp_path: Path) -> str:
    path = str(tmp_path / "jtop.sock")
    assert len(path) < 108
    return path


@contextmanager
def service(socket: str, version: str = VERSION, mode: str = "good") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(SERVICE), socket, version, mode], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        wait_for(Path(socket).exists)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def opened(socket: str, interval_s: float = 0.2, first_sample_s: float = 20.0) -> Iterator[Jtop]:
    source = Jtop(
        NoTree(),  # type: ignore[arg-type]
        ["--socket", socket, "--interval", str(interval_s)],
        first_sample_s,
    )
    try:
        yield source
    finally:
        source.close()
        source.close()
    assert bridges() == []


def bridges() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "backbench.agent.sensors.jtop_bridge" in child.cmdline()
    ]


def wait_for(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def next_values(source: Jtop) -> Mapping[str, Value]:
    found: list[Mapping[str, Value]] = []

    def came() -> bool:
        values = source.read()
        if any(not isinstance(value, Unread) for value in values.values()):
            found.append(values)
        return bool(found)

    wait_for(came)
    return found[-1]


def test_a_sample_of_the_service_is_read_with_its_units_and_what_is_off_stays_unread(socket: str) -> None:
    with service(socket), opened(socket) as source:
        units = {channel.name: channel.unit for channel in source.probe().channels}
        values = next_values(source)
    assert values == {
        "jtop.temp.cpu": 46062, "jtop.temp.cv0": Unread("ENODATA"), "jtop.temp.gpu": 46406, "jtop.temp.tj": 47906,
        "jtop.power.rail.VDD_CPU_GPU_CV": 1064, "jtop.power.rail.VDD_SOC": 1540, "jtop.power.total": 5133,
        "jtop.gpu.util": 48, "jtop.gpu.clock": 306_000_000, "jtop.mem.used": 1687344 * 1024,
        "jtop.emc.clock": 2_133_000_000, "jtop.fan.pwmfan.pwm": 263, "jtop.fan.pwmfan.rpm": 1145,
    }  # fmt: skip
    assert units["jtop.power.total"] == "mW"
    assert units["jtop.temp.cv0"] == "mC"
    assert units.keys() == values.keys()


def test_the_client_is_never_imported_into_this_process(socket: str) -> None:
    with service(socket), opened(socket) as source:
        assert source.probe().state == "read"
    assert "jtop" not in sys.modules


def test_without_a_service_the_remedy_is_named(socket: str) -> None:
    with opened(socket) as source:
        coverage = source.probe()
    assert (coverage.state, coverage.reason) == (
        "absent",
        "the jtop service does not run; sudo systemctl start jtop.service",
    )
    assert source.read() == {}


def test_a_socket_that_a_dead_service_left_is_no_service(socket: str) -> None:
    with service(socket):
        pass
    assert Path(socket).exists()
    with opened(socket) as source:
        assert "the jtop service does not run" in source.probe().reason


def test_a_service_of_another_version_is_named_with_ours(socket: str) -> None:
    with service(socket, "4.3.2"), opened(socket) as source:
        coverage = source.probe()
    assert coverage.state == "absent"
    assert "4.3.2" in coverage.reason
    assert VERSION in coverage.reason


def test_a_service_that_never_answers_costs_its_deadline_and_leaves_no_process(socket: str) -> None:
    with service(socket, mode="mute"), opened(socket, first_sample_s=2.0) as source:
        coverage = source.probe()
        assert bridges() == []
    assert coverage.state == "absent"
    assert coverage.reason == "the jtop service gave no sample for 2 s; restart jtop.service"


@pytest.fixture(scope="session")
def old_client() -> Path:
    """The package that most boards still have, which comes as a source archive and is not to be set up here."""
    folder = Path(sys.prefix) / "jetson-stats" / OLD_VERSION
    if not (folder / "jtop").is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            got = subprocess.run([*pip, f"jetson-stats=={OLD_VERSION}", "--dest", scratch], check=False, timeout=120)
            if got.returncode:
                pytest.skip(f"jetson-stats {OLD_VERSION} cannot be fetched here")
            (archive,) = Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as opened_archive:
                opened_archive.extractall(scratch, filter="data")
            (unpacked,) = Path(scratch).glob("jetson*/jtop")
            shutil.copytree(unpacked, folder / "jtop")
    return folder


def test_the_client_of_older_boards_gives_the_same(
    socket: str, old_client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(old_client))
    with service(socket, OLD_VERSION), opened(socket) as source:
        assert source.probe().state == "read"
        values = next_values(source)
    assert values["jtop.power.total"] == 5133
    assert values["jtop.temp.tj"] == 47906
    assert values["jtop.gpu.clock"] == 306_000_000


def test_a_slow_service_is_read_at_its_own_rate(socket: str) -> None:
    with service(socket, mode="slow"), opened(socket) as source:
        assert source.probe().state == "read"
        assert next_values(source)["jtop.power.total"] == 5133


def test_a_sample_that_does_not_advance_is_not_read_twice(socket: str) -> None:
    with service(socket, mode="stale"), opened(socket) as source:
        assert source.probe().state == "read"
        seen: list[str] = []

        def gave_up() -> bool:
            values = set(source.read().values())
            assert all(isinstance(value, Unread) for value in values)
            seen.extend(value.code for value in values if isinstance(value, Unread))
            return bool({"ECONNRESET", "ETIMEDOUT"} & set(seen))

        wait_for(gave_up)


def test_after_a_service_that_died_in_the_middle_its_successor_is_found(socket: str) -> None:
    with opened(socket) as source:
        with service(socket):
            assert source.probe().state == "read"
            next_values(source)
        wait_for(lambda: Unread("ECONNRESET") in source.read().values())
        Path(socket).unlink()
        with service(socket):
            assert next_values(source)["jtop.power.total"] == 5133


def test_a_recorded_board_has_no_service() -> None:
    class Recorded:
        simulated = True

    source = Jtop(Recorded())  # type: ignore[arg-type]
    assert source.probe().reason == "a recorded board has no jtop service"
    assert source.read() == {}


def test_where_it_is_not_installed_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['jtop'] = None\n"
        "from backbench.agent.sensors.jtop_bridge import main\n"
        "import os; sys.exit(main(['--parent', str(os.getppid())]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'backbench[jtop]'" in done.stdout
    assert "AGPL" in done.stdout
