"""A process over the fake driver, for this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.agent.backends.cuda.driver_process import compile_driver, compiler_lacking, process_over


@pytest.fixture(scope="module")
def over_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Runs a function of a module, with its arguments, in a process that finds the fake driver."""
    if why := compiler_lacking():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("driver")
    compile_driver(folder)
    with process_over(folder) as run:
        yield run
