from __future__ import annotations

import time
import uuid

import pytest

from backbench.domain.identifiers import is_run_id, new_run_id


def test_a_run_id_is_a_uuid_version_7_in_canonical_form() -> None:
    text = new_run_id()
    value = uuid.UUID(text)
    assert str(value) == text
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert is_run_id(text)


def test_run_ids_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(1_700_000_000_000_000_000 + step * 1_000_000 for step in range(1000))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    ids = [new_run_id() for _ in range(1000)]
    assert ids == sorted(ids)


def test_a_run_id_tells_its_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    assert uuid.UUID(new_run_id()).int >> 80 == 1_700_000_000_123


def test_run_ids_made_in_one_millisecond_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    assert len({new_run_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run-1",
        "018bcfe5-687b-4abc-8abc-0123456789ab",
        "018bcfe5-687b-7abc-cabc-0123456789ab",
        "018BCFE5-687B-7ABC-8ABC-0123456789AB",
        "018bcfe5687b7abc8abc0123456789ab",
        "018bcfe5-687b-7abc-8abc-0123456789ab\n",
        "../018bcfe5-687b-7abc-8abc-0123456789ab",
    ],
)
def test_anything_else_is_not_a_run_id(text: str) -> None:
    assert not is_run_id(text)
