"""Prepared models: named by everything that determines them, kept while in use, the longest unused dropped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from backbench.agent.models import ModelCache
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ExternalData, ModelRef, RunSpec

SPEC = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)


def made(cache: ModelCache, number: int, used_unix_s: int) -> Path:
    path = cache.path(replace(SPEC, height=number))
    path.write_bytes(bytes(100))
    os.utime(path, (used_unix_s, used_unix_s))
    return path


def test_the_files_with_its_weights_are_part_of_a_model_s_name(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    bundles = [(), (ExternalData("w", "b" * 64),), (ExternalData("w", "c" * 64),), (ExternalData("v", "b" * 64),)]
    names = {cache.path(replace(SPEC, model=replace(SPEC.model, external=external))) for external in bundles}
    assert len(names) == len(bundles)


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=250)
    old, middle, new = (made(cache, number, 1000 + number) for number in (1, 2, 3))
    cache.tidy(new)
    assert [path.exists() for path in (old, middle, new)] == [False, True, True]


def test_a_model_that_a_run_holds_stays_whatever_it_takes(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=150)
    held, other = made(cache, 1, 1001), made(cache, 2, 1002)
    with cache.held(held), cache.held(held):
        cache.tidy(other)
        assert [held.exists(), other.exists()] == [True, False]
    newer = made(cache, 3, 1003)
    cache.tidy(newer)
    assert [held.exists(), newer.exists()] == [False, True]


def test_what_a_killed_preparation_left_is_removed_and_that_of_another_model_is_not(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    paths = [cache.path(replace(SPEC, height=number)) for number in (1, 2)]
    mine, other = (path.with_name(f".{path.name}.0123abcd.part") for path in paths)
    for part in (mine, other):
        part.touch()
    cache.tidy(paths[0])
    assert [mine.exists(), other.exists()] == [False, True]
    ModelCache(tmp_path)
    assert not other.exists()
