"""From finished runs to an exit status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FINE, NO, BAD_INPUT, FAILED, UNJUDGED, INTERRUPTED = 0, 1, 2, 3, 4, 130

_INPUT_FAILURES = ("invalid_model", "shape_mismatch", "invalid_input")


def status_of(documents: Sequence[Mapping[str, Any]], strict: bool = False) -> int:
    """The exit status of runs: what went wrong before what was measured, a broken budget before what is unknown."""
    statuses = {_status(document, strict) for document in documents}
    order = (INTERRUPTED, FAILED, BAD_INPUT, NO, UNJUDGED)
    return next((status for status in order if status in statuses), FINE)


def _status(document: Mapping[str, Any], strict: bool) -> int:
    state = document["state"]
    if state == "cancelled":
        return INTERRUPTED
    if state != "done":
        reason = (document.get("failure") or {}).get("reason", "")
        if reason == "out_of_memory" and document.get("memory_limit_mb") is not None:
            return NO  # that was the question
        return BAD_INPUT if reason in _INPUT_FAILURES else FAILED
    unjudged = strict and _unjudged(document)
    if document["verdict"] in ("over", "reject"):
        return UNJUDGED if unjudged else NO
    return UNJUDGED if unjudged else FINE


def _unjudged(document: Mapping[str, Any]) -> bool:
    if document["validity"]["status"] in ("invalid", "unverified"):
        return True
    return any(budget["verdict"] == "unknown" for budget in document["budgets"])
