from __future__ import annotations

import stat
from pathlib import Path

import pytest

from backbench.agent.data_dir import DataDir
from backbench.domain.errors import StoreUnusable


def test_a_folder_is_made_for_its_owner_alone_and_has_one_agent_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "far" / "data"
    with DataDir(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600
        with pytest.raises(StoreUnusable, match="belongs to a running agent; stop it or choose another"), DataDir(path):
            pass
    with DataDir(path):
        pass


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_folder_that_every_user_can_write_is_refused_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(StoreUnusable, match=f"every user of this device; chmod o-w {path}"), DataDir(path):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not list(path.iterdir())


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match=r"cannot be used: .*; choose another with --data-dir"):
        DataDir(tmp_path / "file" / "data").__enter__()
