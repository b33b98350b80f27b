"""Runs of a group take turns, forwards and backwards."""

from __future__ import annotations

import asyncio

import pytest

from backbench.agent.supervisor import Stopped
from backbench.agent.turns import Turns


async def play(members: str, rounds: dict[str, int]) -> str:
    """Who had a turn, in order, when each member takes so many and then ends."""
    turns, order = Turns(list(members)), []

    async def member(name: str) -> None:
        for _ in range(rounds[name]):
            async with turns.turn(name, asyncio.Event()):
                order.append(name)
                await asyncio.sleep(0)
        await turns.retire(name)

    await asyncio.gather(*(member(name) for name in members))
    return "".join(order)


async def test_two_runs_alternate_as_a_b_b_a() -> None:
    assert await play("AB", {"A": 4, "B": 4}) == "ABBAABBA"


async def test_three_runs_go_forwards_and_backwards() -> None:
    assert await play("ABC", {"A": 2, "B": 2, "C": 2}) == "ABCCBA"


async def test_one_run_never_waits() -> None:
    assert await play("A", {"A": 3}) == "AAA"


async def test_a_run_that_ends_early_leaves_the_turns_to_the_others() -> None:
    assert await play("AB", {"A": 1, "B": 4}) == "ABBBB"
    assert await play("ABC", {"A": 3, "B": 1, "C": 3}) == "ABCCAAC"


async def test_a_stop_ends_the_waiting_and_a_failure_in_a_turn_ends_the_turn() -> None:
    turns, stop = Turns(["A", "B"]), asyncio.Event()

    async def waiting() -> None:
        async with turns.turn("B", stop):
            raise AssertionError("it is not B's turn")

    task = asyncio.ensure_future(waiting())
    await asyncio.sleep(0)
    stop.set()
    with pytest.raises(Stopped):
        await task
    with pytest.raises(ValueError, match="broken"):
        async with turns.turn("A", asyncio.Event()):
            raise ValueError("broken")
    async with turns.turn("B", asyncio.Event()):
        pass
