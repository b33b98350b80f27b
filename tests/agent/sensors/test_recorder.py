"""A recorded device is the same device when it is replayed, but nobody's in particular."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from backbench.agent.identity import read_identity
from backbench.agent.sensors import simulations
from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.bundle import Bundle, BundleTree, Content, parse, read_bundle, render
from backbench.agent.sensors.recorder import record
from backbench.agent.sensors.table import EXTRA_SOURCES, SOURCES
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import LiveTree

BUNDLES = sorted(Path(simulations.__file__).parent.glob("bundles/*.bundle"))
MAKER = "backbench-agent 9.9.9"
LEFT_OUT = {"proc/device-tree/serial-number", "proc/cmdline", "sys/kernel/debug/nvmap/iovmm/clients"}
"""One names the device, one its disks, one other people's programs."""


def recorded(files: dict[str, Content]) -> dict[str, Content]:
    return dict(record(BundleTree(Bundle("board", ("x",), files)), MAKER).bundle.files)


class Spy(BundleTree):
    """Keeps which paths were read that are there."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.asked: set[str] = set()

    def read(self, path: str) -> bytes:
        content = super().read(path)
        self.asked.add(path)
        return content


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_whatever_is_read_of_a_board_is_recorded(path: Path) -> None:
    board = read_bundle(path)
    tree = Spy(board)
    for make in (*SOURCES.values(), *EXTRA_SOURCES.values()):
        source = make(tree)
        source.probe()
        source.read()
        source.close()
    read_identity(tree, b"key")
    files = record(BundleTree(board), MAKER).bundle.files
    missed = {name for name in tree.asked - LEFT_OUT if name in board.files and files.get(name) != board.files[name]}
    assert {name for name in missed if not name.startswith("sys/fs/cgroup/")} == set()
    tree.close()


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_a_recording_of_a_board_gives_the_same_identity(path: Path) -> None:
    board = read_bundle(path)
    again = parse(render(record(BundleTree(board), MAKER).bundle), "again")
    before, after = (read_identity(BundleTree(each), b"key") for each in (board, again))
    assert replace(after, serial_hash=before.serial_hash) == before
    assert (after.serial_hash == "") == (before.serial_hash == "")


def test_this_machine_can_be_recorded_and_replayed() -> None:
    tree: Tree = LiveTree()
    found = record(tree, MAKER, "in a\ntest")
    bundle = parse(render(found.bundle), "board")
    assert bundle == found.bundle
    assert MAKER in bundle.provenance[0]
    assert bundle.provenance[0].endswith("; in a test")
    replayed = BundleTree(bundle)
    live, again = read_identity(tree, b"key"), read_identity(replayed, b"key")
    for name in ("board", "module", "soc", "family", "os", "kernel", "memory_bytes", "platform_release", "jetpack"):
        assert getattr(again, name) == getattr(live, name)
    assert socket.gethostname() not in render(bundle)
    tree.close()
    replayed.close()


def test_nothing_that_tells_whose_device_it_is_is_recorded() -> None:
    serial, mac = "1423019024178", "d8:3a:dd:01:02:03"
    uuid = "6ec4a1f2-1111-4c3d-8e5f-0123456789ab"
    files = recorded(
        {
            "proc/device-tree/serial-number": f"{serial}\0".encode(),
            "proc/device-tree/model": f"A board {serial}\0".encode(),
            "proc/cpuinfo": b"processor\t: 0\nmodel name\t: ARM\nSerial\t\t: 10000000abcdef01\nModel\t\t: Pi 5\n",
            "proc/cmdline": f"psi=1 root=PARTUUID=ab12cd34-02 smsc95xx.macaddr={mac} serial={serial}\n".encode(),
            "proc/swaps": b"Filename Type Size\n/home/ana/swapfile file 5\n/dev/zram0 partition 5\n",
            "etc/os-release": b'PRETTY_NAME="Debian"\nVARIANT="ana\'s"\n',
            "etc/nvpmodel.conf": b"# by ana\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n",
            "sys/class/dmi/id/product_uuid": uuid.encode(),
            "sys/class/dmi/id/product_name": f"PC {uuid} {mac}\n".encode(),
            "cmd/vcgencmd version": f"2024/09/23\nhost {socket.gethostname()} serial: {serial}\n".encode(),
        }
    )
    text = render(Bundle("board", ("x",), files))
    for secret in (serial, mac, uuid, "ab12cd34", "10000000abcdef01", "ana", socket.gethostname()):
        assert secret not in text
    assert files["proc/device-tree/serial-number"] == b"0000000000000\0"
    assert files["proc/cmdline"] == b"psi=1\n"
    assert files["proc/cpuinfo"] == b"processor\t: 0\nmodel name\t: ARM\nModel\t\t: Pi 5\n"
    assert files["proc/swaps"] == b"Filename Type Size\n/swap file 5\n/dev/zram0 partition 5\n"
    assert files["etc/nvpmodel.conf"] == b"< POWER_MODEL ID=0 NAME=MAXN >\n"


def test_what_fails_is_recorded_as_failing_and_what_a_bundle_cannot_hold_is_left_out_with_a_note() -> None:
    board = Bundle(
        "board",
        ("x",),
        {
            "sys/class/thermal/thermal_zone0/temp": Unread("EAGAIN"),
            "sys/class/thermal/thermal_zone1/temp": b"no end",
            "sys/class/thermal/thermal_zone2/type": b"\xff\n",
            "cmd/nvpmodel -q": Unread("ETIMEDOUT"),
        },
    )
    found = record(BundleTree(board), MAKER)
    assert found.bundle.files == {
        "sys/class/thermal/thermal_zone0/temp": Unread("EAGAIN"),
        "sys/class/thermal/thermal_zone1/temp": b"no end\n",
        "cmd/nvpmodel -q": Unread("ETIMEDOUT"),
    }
    assert len(found.notes) == 3
    assert any("thermal_zone2" in note for note in found.notes)
