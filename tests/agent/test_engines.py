"""Engines on the disk: whole or not there, rebuilt when damaged, dropped when there are too many. Of real files."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from backbench.agent.engines import EngineCache, Entry, NothingBuilt, engine_digest, entry_fields, entry_of, file_sha256

KEY = {"library": "numpy 2", "shape": "1x3x8x8"}
MODEL = "a" * 64
DIGEST = engine_digest("built", MODEL, KEY)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def added(cache: EngineCache, digest: str = DIGEST, content: bytes = b"engine") -> Entry:
    def build(path: Path) -> Mapping[str, int]:
        path.write_bytes(content)
        return {"layer_count": 3}

    with cache.part() as part:
        return cache.add(digest, part, KEY, build)


def entries(cache: EngineCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()} - {cache.timings.name}


def test_an_engine_is_found_again_with_what_it_depends_on_and_what_was_counted(cache: EngineCache) -> None:
    assert cache.find(DIGEST) is None
    made = added(cache)
    found = cache.find(DIGEST)
    assert found == made
    assert found is not None
    assert found.path.read_bytes() == b"engine"
    assert found.facts == KEY
    assert found.counters == {"layer_count": 3, "engine_bytes": 6}
    assert entry_of(json.loads(json.dumps(entry_fields(found)))) == found


@pytest.mark.parametrize(
    ("backend", "model", "key"),
    [
        ("other", MODEL, KEY),
        ("built", "b" * 64, KEY),
        ("built", MODEL, {**KEY, "shape": "2x3x8x8"}),
        ("built", MODEL, {**KEY, "precision": "fp16"}),
        ("built", MODEL, {}),
    ],
)
def test_whatever_it_depends_on_changes_its_name(backend: str, model: str, key: Mapping[str, str]) -> None:
    assert engine_digest(backend, model, key) != DIGEST
    assert engine_digest(backend, model, dict(reversed(list(key.items())))) == engine_digest(backend, model, key)


def test_an_engine_of_several_files_is_one(cache: EngineCache) -> None:
    def build(path: Path) -> Mapping[str, int]:
        (path / "deep").mkdir(parents=True)
        (path / "plan").write_bytes(b"12345")
        (path / "deep" / "notes").write_bytes(b"123")
        return {}

    with cache.part() as part:
        made = cache.add(DIGEST, part, KEY, build)
    assert made.counters["engine_bytes"] == 8
    assert cache.find(DIGEST) == made
    (made.path / "deep" / "notes").rename(made.path / "deep" / "other")
    assert cache.find(DIGEST) is None


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "no description", "bad description", "other digest"])
def test_a_damaged_engine_is_never_found_and_can_be_built_again(cache: EngineCache, damage: str) -> None:
    path = added(cache).path
    description = path.with_name("description.json")
    if damage == "changed":
        path.write_bytes(b"eNgine")
    elif damage == "cut":
        os.truncate(path, 3)
    elif damage == "gone":
        path.unlink()
    elif damage == "no description":
        description.unlink()
    elif damage == "bad description":
        description.write_text("[1")
    else:
        description.write_text(json.dumps({**json.loads(description.read_text()), "sha256": "0" * 64}))
    assert cache.find(DIGEST) is None
    assert entries(cache) == set()
    added(cache)
    assert cache.find(DIGEST) is not None


def test_a_build_that_fails_or_leaves_nothing_leaves_nothing_visible(cache: EngineCache) -> None:
    def fails(path: Path) -> Mapping[str, int]:
        path.write_bytes(b"half")
        raise RuntimeError

    for build, error in ((fails, RuntimeError), (lambda _: {}, NothingBuilt)):
        with pytest.raises(error), cache.part() as part:
            cache.add(DIGEST, part, KEY, build)
        assert entries(cache) == set()


def test_what_a_killed_build_left_is_cleared_at_the_start_and_never_taken_for_an_engine(cache: EngineCache) -> None:
    whole = added(cache)
    left = cache.folder / ".0123456789abcdef.part"
    left.mkdir()
    (left / "engine").write_bytes(b"half")
    assert cache.find(left.name.strip(".")) is None
    again = EngineCache(cache.folder)
    again.clear()
    assert entries(again) == {whole.path.parent.name}


def test_of_two_builds_at_once_the_first_one_counts(cache: EngineCache) -> None:
    both_built = threading.Barrier(2, timeout=30)

    def build(path: Path) -> Mapping[str, int]:
        path.write_bytes(threading.current_thread().name.encode())
        both_built.wait()
        return {}

    found: list[Entry] = []

    def one() -> None:
        with cache.part() as part:
            found.append(cache.add(DIGEST, part, KEY, build))

    threads = [threading.Thread(target=one, name=name) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2
    assert found[0].path == found[1].path
    assert entries(cache) == {DIGEST}
    assert cache.find(DIGEST) is not None


def test_the_longest_unused_engines_go_first_and_none_in_use(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", limit_bytes=3000)
    digests = [engine_digest("built", MODEL, {"number": str(number)}) for number in range(3)]
    kept = [added(cache, digest, b"x" * 1000) for digest in digests]
    for age, entry in enumerate(kept):
        os.utime(entry.path.parent, (age, age))
    assert cache.find(digests[0]) is not None  # used now
    with cache.held(kept[1].path):
        newest = added(cache, DIGEST, b"x" * 1000)
        with cache.held(newest.path):
            pass
        assert kept[1].path.exists()
        assert not kept[2].path.exists()
    assert entries(cache) <= {digests[0], digests[1], DIGEST}
    assert newest.path.exists()


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert file_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
