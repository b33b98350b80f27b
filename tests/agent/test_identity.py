"""An agent's id is made once and outlives the loss of either place where it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbench.agent.identity import kept_device_id
from backbench.agent.registry import Registry


def device_id(folder: Path) -> str:
    registry = Registry(folder / "agent.sqlite")
    try:
        return kept_device_id(folder, registry)
    finally:
        registry.close()


@pytest.mark.parametrize("lost", ["agent.sqlite", "device-id"])
def test_the_id_outlives_the_loss_of_one_of_its_places(tmp_path: Path, lost: str) -> None:
    first = device_id(tmp_path)
    assert device_id(tmp_path) == first
    (tmp_path / lost).unlink()
    assert device_id(tmp_path) == first
    assert (tmp_path / lost).exists()


@pytest.mark.parametrize("garbage", [b"", bytes(33), b"not an id\n"])
def test_a_damaged_file_is_written_anew(tmp_path: Path, garbage: bytes) -> None:
    first = device_id(tmp_path)
    (tmp_path / "device-id").write_bytes(garbage)
    assert device_id(tmp_path) == first
    assert (tmp_path / "device-id").read_text() == f"{first}\n"
    assert (tmp_path / "device-id").stat().st_mode & 0o777 == 0o600


def test_two_agents_have_two_ids(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert device_id(tmp_path / "a") != device_id(tmp_path / "b")
