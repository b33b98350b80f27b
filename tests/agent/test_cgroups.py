"""Control groups, on a tree that looks like the kernel's: what is written where, and when there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbench.agent.cgroups import Cgroups


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system on which /system.slice/backbench.service is delegated to the agent."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/backbench.service\n")
    service(tmp_path).mkdir(parents=True)
    (service(tmp_path) / "cgroup.procs").write_text("41\n")
    (service(tmp_path) / "cgroup.controllers").write_text("cpu memory pids\n")
    (service(tmp_path) / "cgroup.subtree_control").write_text("")
    return tmp_path


def service(root: Path) -> Path:
    return root / "sys/fs/cgroup/system.slice/backbench.service"


def test_the_agent_moves_below_its_group_and_hands_out_memory_control(root: Path) -> None:
    assert Cgroups.open(root, pid=41) is not None
    assert (service(root) / "agent/cgroup.procs").read_text() == "41"
    assert (service(root) / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_an_agent_that_finds_itself_moved_already_uses_the_group_above(root: Path) -> None:
    Cgroups.open(root, pid=41)
    (root / "proc/self/cgroup").write_text("0::/system.slice/backbench.service/agent\n")
    groups = Cgroups.open(root, pid=42)
    assert groups is not None
    with groups.group(None) as group:
        assert group is not None
        assert group.folder.parent == service(root)


def test_a_worker_has_a_group_with_its_limit_and_no_swap(root: Path) -> None:
    groups = Cgroups.open(root, pid=41)
    assert groups is not None
    with groups.group(256_000_000) as group:
        assert group is not None
        assert (group.folder / "memory.max").read_text() == "256000000"
        assert (group.folder / "memory.swap.max").read_text() == "0"
        assert group.add(77)
        assert (group.folder / "cgroup.procs").read_text() == "77"
        assert group.peak_bytes() is None
        (group.folder / "memory.peak").write_text("123456\n")
        (group.folder / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 2\n")
        assert (group.peak_bytes(), group.out_of_memory_kills()) == (123456, 2)


def test_groups_have_names_of_their_own(root: Path) -> None:
    groups = Cgroups.open(root, pid=41)
    assert groups is not None
    with groups.group(None) as one, groups.group(None) as other:
        assert one is not None
        assert other is not None
        assert one.folder != other.folder
        assert one.out_of_memory_kills() == 0


def test_all_of_a_group_is_killed_at_once_where_the_kernel_can(root: Path) -> None:
    groups = Cgroups.open(root, pid=41)
    assert groups is not None
    with groups.group(None) as group:
        assert group is not None
        group.kill()
        assert not (group.folder / "cgroup.kill").exists()
        (group.folder / "cgroup.kill").touch()
        group.kill()
        assert (group.folder / "cgroup.kill").read_text() == "1"


def test_a_group_that_a_killed_agent_left_is_removed_and_one_in_use_is_not(root: Path) -> None:
    (service(root) / "worker-1-1").mkdir()
    groups = Cgroups.open(root, pid=41)
    assert groups is not None
    with groups.group(None) as one, groups.group(None):
        assert one is not None
        assert one.folder.exists()
        assert not (service(root) / "worker-1-1").exists()


@pytest.mark.parametrize("text", ["", "4:memory:/x\n", "0::/elsewhere\n"])
def test_without_version_2_there_are_no_groups(root: Path, text: str) -> None:
    (root / "proc/self/cgroup").write_text(text)
    assert Cgroups.open(root, pid=41) is None


def test_without_memory_control_there_are_no_groups(root: Path) -> None:
    (service(root) / "cgroup.controllers").write_text("cpu pids\n")
    assert Cgroups.open(root, pid=41) is None


def test_on_this_machine_opening_raises_nothing() -> None:
    assert Cgroups.open(Path("/nonexistent")) is None
