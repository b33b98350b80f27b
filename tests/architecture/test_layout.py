from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("agent", "controller", "models", "protos")
GENERATED = ROOT / "protos/backbench/v1"
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


def modules(files: list[Path], *folders: str) -> Iterator[Path]:
    for path in files:
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders and GENERATED not in path.parents:
            yield path


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_the_namespace_itself_is_no_package(root: str) -> None:
    places = (ROOT / root / "backbench/__init__.py", ROOT / root / "__init__.py")
    intruders = [name(path) for path in places if path.exists()]
    assert not intruders, f"delete {', '.join(intruders)}: it hides the backbench/ of the other three folders"


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_every_source_root_holds_the_namespace_alone(root: str) -> None:
    packages = {path.parents[1].name for path in (ROOT / root).glob("*/*/__init__.py")}
    assert packages <= {"backbench"}


def test_every_package_has_an_init_file(files: list[Path]) -> None:
    without = {
        name(path.parent)
        for path in modules(files, *SOURCE_ROOTS)
        if path.parent.name != "backbench" and not (path.parent / "__init__.py").exists()
    }
    assert not {folder for folder in without if "alembic" not in folder and "migrations" not in folder}


def test_every_typed_package_says_so() -> None:
    packages = [path.parent for root in SOURCE_ROOTS for path in (ROOT / root / "backbench").glob("*/py.typed")]
    assert {path.name for path in packages} == {"agent", "controller", "models", "domain", "v1", "wire"}


def test_no_module_is_longer_than_400_lines(files: list[Path]) -> None:
    lengths = {
        name(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules(files, *SOURCE_ROOTS, "tests", "benchmarks", "scripts")
    }
    assert not {path: lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES}


def test_no_function_is_longer_than_60_lines(files: list[Path]) -> None:
    long = {}
    for path in modules(files, *SOURCE_ROOTS, "tests", "benchmarks", "scripts"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{name(path)}: {node.name}"] = lines
    assert not long


def test_every_public_module_says_what_it_is_for(files: list[Path]) -> None:
    silent = [
        name(path)
        for path in modules(files, *SOURCE_ROOTS)
        if not path.name.startswith("_") or path.name in ("__init__.py", "__main__.py")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def links(text: str) -> Iterator[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", prose):
        if not re.match(r"[a-z][a-z0-9+.-]*:", target):
            yield target
    yield from re.findall(r"<(?:img|source)[^>]*\ssrc(?:set)?=\"(?!https?:)([^\"]+)\"", prose)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+\s+(.+?)\s*#*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_between_the_documents_leads_somewhere(files: list[Path]) -> None:
    dead = []
    for path in files:
        if path.suffix == ".md":
            for link in links(path.read_text(encoding="utf-8")):
                file, _, anchor = link.partition("#")
                target = (path.parent / file).resolve() if file else path
                known = target.exists() and (not anchor or target.suffix != ".md" or anchor in anchors(target))
                if not known:
                    dead.append(f"{name(path)}: {link}")
    assert not dead


def scripts() -> list[Path]:
    named = (path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)
    return sorted([*named, ROOT / ".ci/run"])


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.name))
def test_a_script_parses_and_can_be_started(script: Path) -> None:
    first = script.read_text(encoding="utf-8").splitlines()[0]
    shell = "bash" if first.endswith("bash") else "sh"
    assert subprocess.run([shell, "-n", script], check=False).returncode == 0
    # `environment` is read by the others and never started.
    assert os.access(script, os.X_OK) == (script.name != "environment")
    assert first.startswith("#") if script.name == "environment" else first in ("#!/bin/sh", "#!/usr/bin/env bash")


# Joined here, so that this file does not hold what it looks for.
FOLDERS = "|".join("".join(letters) for letters in (["wo", "rk"], ["ro", "ot"]))
PATHS = re.compile(rf"(?<![\w.\-])/(?:{FOLDERS})/")
HOSTS = re.compile(
    "pypi org|pythonhosted org|npmjs org|crates io|ghcr io|docker io|quay io|nvcr io|anaconda org".replace(" ", r"\.")
)


def test_no_file_names_a_path_of_a_machine_or_a_host_of_packages(files: list[Path]) -> None:
    found = []
    for path in files:
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (PATHS, HOSTS):
            found += [f"{name(path)}: {match.group()}" for match in pattern.finditer(text)]
    assert not found
