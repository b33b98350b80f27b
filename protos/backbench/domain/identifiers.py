"""Run ids: UUIDv7 (RFC 9562), so that they sort by the time they were made."""

from __future__ import annotations

import os
import re
import time
import uuid

_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_run_id() -> str:
    """A fresh UUIDv7 in canonical form."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def is_run_id(text: str) -> bool:
    """Whether the text is a canonical UUIDv7."""
    return _PATTERN.fullmatch(text) is not None
