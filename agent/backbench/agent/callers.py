"""Whose call is being answered: set where a call comes in, read wherever that makes a difference."""

from __future__ import annotations

from contextvars import ContextVar

from backbench.domain.security import LOCAL_CALLER, Caller

_CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL_CALLER)


def current_caller() -> Caller:
    """Who made the call that this task answers; LOCAL_CALLER outside of calls."""
    return _CALLER.get()


def set_caller(caller: Caller) -> None:
    """Name who made the call that this task answers: every call is a task of its own."""
    _CALLER.set(caller)
