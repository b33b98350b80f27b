"""How an agent is, as `backbench-agent status` says it: one document, and the same for people."""

from __future__ import annotations

import datetime
from typing import Any

from backbench.domain.device import AgentStatus
from backbench.domain.security import AgentSecurity


def status_document(status: AgentStatus, security: AgentSecurity) -> dict[str, Any]:
    """The document `backbench.agent-status/1`; what is not known is null."""
    error_ns = status.last_error_unix_ns
    return {
        "schema": "backbench.agent-status/1",
        "version": status.agent_version,
        "device_id": security.device_id,
        "since": _time(status.started_unix_ns),
        "listen": status.listen,
        "tls": status.tls,
        "fleets": [fleet.fleet_id for fleet in security.fleets],
        "running": list(status.running_run_ids),
        "queued": list(status.queued_run_ids),
        "runs": dict(sorted(status.run_counts.items())),
        "uncollected_runs": status.uncollected_count,
        "artifact_bytes": {"used": status.artifact_bytes, "limit": status.artifact_limit_bytes},
        "journal_bytes": {"used": status.journal_bytes, "limit": status.journal_limit_bytes},
        "free_bytes": status.free_bytes,
        "last_error": None if error_ns is None else {"time": _time(error_ns), "message": status.last_error},
    }


def status_text(document: dict[str, Any]) -> str:
    """The document for people, a line each."""
    error, transport = document["last_error"], "TLS" if document["tls"] else "plain text"
    counts = ", ".join(f"{count} {state}" for state, count in document["runs"].items())
    lines = {
        "version": document["version"],
        "since": document["since"],
        "listens": f"{document['listen']}, {transport}",
        "fleets": ", ".join(document["fleets"]) or "none",
        "running": ", ".join(document["running"]) or "nothing",
        "queued": ", ".join(document["queued"]) or "nothing",
        "runs": f"{counts or 'none'}; {document['uncollected_runs']} not collected",
        "artifacts": _room(document["artifact_bytes"]),
        "journals": _room(document["journal_bytes"]),
        "free disk": _megabytes(document["free_bytes"]),
        "last error": "none" if error is None else f"{error['time']} {error['message']}",
    }
    return "\n".join(f"{name:<11}{text}" for name, text in lines.items())


def _room(room: dict[str, int]) -> str:
    return f"{_megabytes(room['used'])} of {_megabytes(room['limit'])}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _time(unix_ns: int) -> str:
    return datetime.datetime.fromtimestamp(unix_ns / 1e9, datetime.timezone.utc).isoformat(timespec="seconds")
