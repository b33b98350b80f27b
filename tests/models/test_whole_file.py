from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from backbench.models.whole_file import written_whole


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_is_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "list.pem", []
    path.write_bytes(b"old")
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with written_whole(path, 0o600) as file:
        file.write(b"new")
    (first, before), (second, after) = synced
    assert (first.parent, before) == (tmp_path, b"old")
    assert (second, after) == (tmp_path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "list.pem"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
