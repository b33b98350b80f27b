"""Recorded boards are found by name, by the beginning of one, and in files of the user's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from backbench.agent.sensors import bundle, simulations
from backbench.agent.sensors.simulations import known_simulations, open_simulation, resolve_simulation, simulation_name
from backbench.domain.errors import InvalidArgument

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BOARDS = (
    "container-bare", "generic-x86-rapl", "jetson-agx-orin-jp51", "jetson-nano-jp451", "jetson-orin-nano-jp621",
    "jetson-thor-jp71", "jetson-xavier-nx-jp512", "rpi3bplus-softlimit", "rpi4-undervolt", "rpi5-bookworm",
)  # fmt: skip
TIMELINES = ("orin-cooling", "orin-oc-burst", "orin-thermal", "orin-warm", "rpi4-dip", "rpi5-hot", "thor-ungate")


def test_every_board_and_timeline_is_known_and_can_be_replayed() -> None:
    assert known_simulations() == (*BOARDS, *TIMELINES)
    for name in known_simulations():
        tree = open_simulation(name, 0)
        assert tree.simulated
        assert tree.read("proc/meminfo").startswith(b"MemTotal:")
        tree.close()


@pytest.mark.parametrize("name", BOARDS)
def test_a_shipped_board_is_rendered_as_it_is(name: str) -> None:
    file = Path(simulations.__file__).with_name("bundles") / f"{name}.bundle"
    assert bundle.render(bundle.read_bundle(file)) == file.read_text()


@pytest.mark.parametrize("name", TIMELINES)
def test_a_timeline_changes_nothing_that_its_board_does_not_have(name: str) -> None:
    """A slip in a path would go unnoticed: nothing reads it."""
    table = tomllib.loads((Path(simulations.__file__).with_name("timelines") / f"{name}.toml").read_text())
    tree = open_simulation(table["base"], 0)
    added = {"sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq"}
    for entry in table["at"]:
        for path in (*entry.get("set", {}), *entry.get("errno", {})):
            assert tree.glob(path) or path in added, path
    tree.close()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rpi5", "rpi5-bookworm"),
        ("rpi4", "rpi4-undervolt"),
        ("orin-nano", "jetson-orin-nano-jp621"),
        ("jetson-nano", "jetson-nano-jp451"),
        ("nano", "jetson-nano-jp451"),
        ("thor", "jetson-thor-jp71"),
        ("agx-orin", "jetson-agx-orin-jp51"),
        ("x", "jetson-xavier-nx-jp512"),
        ("generic", "generic-x86-rapl"),
        ("orin-thermal", "orin-thermal"),
        ("rpi5-h", "rpi5-hot"),
        ("rpi5-bookworm", "rpi5-bookworm"),
    ],
)
def test_a_name_may_be_cut_short(text: str, name: str) -> None:
    assert resolve_simulation(text) == name
    assert simulation_name(name) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amiga", f'no recorded board is called "amiga"; there are {", ".join((*BOARDS, *TIMELINES))}'),
        ("rpi", '"rpi" is the beginning of several; there are rpi3bplus-softlimit, rpi4-undervolt, rpi5-bookworm'),
        ("", f"the name of a simulation is empty; there are {', '.join((*BOARDS, *TIMELINES))}"),
        ("a\0b", "no recorded board"),
        ("./no/such.bundle", "cannot be read: No such file or directory"),
        ("no.toml", "cannot be read: No such file or directory"),
        ("/", "cannot be read: Is a directory"),
        ("a\0.bundle", "cannot be read"),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_those_that_there_are(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        resolve_simulation(text)


def test_a_file_of_the_users_is_taken_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.bundle").write_text("#! mine\n## proc/meminfo\nMemTotal: 1 kB\n")
    Path("warm.toml").write_text(
        'about = "mine"\nbase = "mine.bundle"\n[[at]]\nms = 0\nset = { "proc/meminfo" = "MemTotal: 2 kB\\n" }\n'
    )
    for text, content in {"mine.bundle": b"MemTotal: 1 kB\n", "./warm.toml": b"MemTotal: 2 kB\n"}.items():
        resolved = resolve_simulation(text)
        assert resolved == str(tmp_path / text)
        assert simulation_name(resolved) == Path(text).stem
        assert open_simulation(resolved, 0).read("proc/meminfo") == content


def test_a_timeline_on_a_board_of_another_name_says_what_it_misses(tmp_path: Path) -> None:
    (tmp_path / "warm.toml").write_text('about = "mine"\nbase = "amiga"\n')
    with pytest.raises(InvalidArgument, match=r'warm\.toml: base: no recorded board is called "amiga"; there are'):
        resolve_simulation(str(tmp_path / "warm.toml"))
