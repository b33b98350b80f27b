"""The commands of the README, taken from it and executed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backbench.models.catalog import skeleton_path
from backbench.models.skeleton import materialise

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[list[str]]:
    return [block.strip().splitlines() for block in re.findall(r"```\n(.*?)```", README.read_text(), re.DOTALL)]


def test_the_two_commands_of_the_first_block_are_scripts_that_can_be_run() -> None:
    commands = [shlex.split(line, comments=True)[0] for line in blocks()[0]]
    assert commands == ["scripts/demo", "scripts/test"]
    assert all(os.access(README.parent / command, os.X_OK) for command in commands)


def test_the_commands_by_hand_do_what_they_say(agents: Callable[..., Any], backbench: Any, photos: Path) -> None:
    (serve,), workstation = blocks()[1:3]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = shlex.split(serve)
    assert arguments[:2] == ["backbench-agent", "serve"]
    listen = arguments[arguments.index("--listen") + 1].replace("50061", port)
    agents(backbench.cwd / arguments[arguments.index("--data-dir") + 1], listen)
    shutil.copytree(photos, backbench.cwd / "photos")
    materialise(skeleton_path("mobilenetv3_large_100"), backbench.cwd / "my_model.onnx", batch=1, height=64, width=64)
    seen = []
    for line in workstation:
        command = [word.replace("50061", port) for word in shlex.split(line)]
        assert command.pop(0) == "backbench"
        if command[0] == "noise":
            command += ["--frames", "20", "--launches", "6"]
        for option, enough in (("--frames", "20"), ("--launches", "2"), ("--size", "64")):
            if option in command:
                command[command.index(option) + 1] = enough
        if "RUN" in command:
            ids = re.findall(r"^\W*([0-9a-f]{8})\b", backbench("run", "list").stdout, re.MULTILINE)
            command = [ids.pop(0) if word == "RUN" else word for word in command]
        # 20 frames carry no p99, so the budget on it is unknown or broken; memory may pass or not.
        done = backbench(*command, status=None)
        assert done.returncode in (0, 1), f"{line}: {done.returncode}\n{done.stderr}"
        seen.append(command[0])
    assert seen == ["device", *["profile"] * 3, "noise", "watch", "models", "inspect", *["run"] * 3, "compare"]
    assert (backbench.cwd / "frames.csv").is_file()


def test_a_board_is_paired_by_the_two_commands_for_it(
    agents: Callable[..., Any], backbench: Any, tmp_path: Path
) -> None:
    serve, pair = blocks()[3]
    assert shlex.split(serve, comments=True)[:4] == ["backbench-agent", "serve", "--listen", "0.0.0.0:50061"]
    agent = agents(tmp_path / "agent-data", "127.0.0.1:0", "--tls")
    command = [word.replace("pi5.local", agent.address) for word in shlex.split(pair)]
    assert command.pop(0) == "backbench"
    assert f"is paired at {agent.address}" in backbench(*command, "--code", agent.code).stdout


def test_both_commands_print_their_version() -> None:
    for module in ("backbench.agent", "backbench.controller"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], text=True, capture_output=True, check=True)
        assert re.search(r"\d+\.\d+\.\d+", done.stdout)
