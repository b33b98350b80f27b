"""Made-up service times whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Autoregressive = Callable[[np.random.Generator, int, float], NDArray[np.float64]]


@pytest.fixture(scope="session")
def autoregressive() -> Autoregressive:
    """So many standard normal values, each with this correlation to the one before it; the first is like the rest."""
    from scipy.signal import lfilter

    def made(random: np.random.Generator, count: int, correlation: float) -> NDArray[np.float64]:
        steps = random.normal(size=count) * np.sqrt(1 - correlation**2)
        steps[0] = random.normal()
        return np.asarray(lfilter([1.0], [1.0, -correlation], steps), dtype=np.float64)

    return made
