"""Which JetPack a release of Linux for Tegra belongs to."""

from __future__ import annotations

import re

_RELEASE = re.compile(r"R(\d{1,4})\s*\(release\),\s*REVISION:\s*(\d{1,4}(?:\.\d{1,4}){0,2})")
_JETPACKS = {
    "39.2.2": "7.2.2", "39.2.1": "7.2.1", "39.2.0": "7.2", "39.0.0": "7.2 EA",
    "38.4.0": "7.1", "38.2.2": "7.0", "38.2.1": "7.0", "38.2.0": "7.0",
    "36.5.2": "6.2.3", "36.5.0": "6.2.2", "36.4.7": "6.2.1", "36.4.4": "6.2.1", "36.4.3": "6.2",
    "36.4.2": "6.1", "36.4.0": "6.1", "36.3.0": "6.0", "36.2.0": "6.0 DP",
    "35.6.5": "5.1.7", "35.6.4": "5.1.6", "35.6.3": "5.1.5", "35.6.2": "5.1.5", "35.6.1": "5.1.5", "35.6.0": "5.1.4",
    "35.5.0": "5.1.3", "35.4.1": "5.1.2", "35.3.1": "5.1.1", "35.2.1": "5.1", "35.1.0": "5.0.2",
    "32.7.6": "4.6.6", "32.7.5": "4.6.5", "32.7.4": "4.6.4", "32.7.3": "4.6.3", "32.7.2": "4.6.2", "32.7.1": "4.6.1",
    "32.6.1": "4.6", "32.5.2": "4.5.1", "32.5.1": "4.5.1", "32.5.0": "4.5", "32.4.4": "4.4.1", "32.4.3": "4.4",
    "32.3.1": "4.3",
}  # fmt: skip


def l4t_version(release_file: str) -> str:
    """ "36.4.4" out of /etc/nv_tegra_release; "" where it says none."""
    found = _RELEASE.search(release_file)
    return f"{found[1]}.{found[2]}" if found else ""


def jetpack_of(l4t: str) -> str:
    """The JetPack by the longest known beginning of a release; "" for one that is newer than this table, say."""
    parts = l4t.split(".")
    beginnings = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((_JETPACKS[beginning] for beginning in beginnings if beginning in _JETPACKS), "")
