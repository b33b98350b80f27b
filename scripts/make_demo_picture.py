"""Runs `backbench demo` and draws what it prints as an SVG terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

_COLUMNS = 100


def main(destination: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "FORCE_COLOR": "1",
            "TERM": "xterm-256color",
            "COLUMNS": str(_COLUMNS),
            "BACKBENCH_HOME": f"{folder}/backbench",
        }
        command = [sys.executable, "-m", "backbench.controller", "demo"]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    output = output.replace(folder, "~/.local/share")
    console = Console(record=True, width=_COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi("$ scripts/demo\n" + output.rstrip()))
    # The web fonts would be fetched from elsewhere; any monospaced font does.
    svg = re.sub(r"@font-face \{.*?\}\n?", "", console.export_svg(title="backbench demo"), flags=re.DOTALL)
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
