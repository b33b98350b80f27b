"""An agent of one fleet, shared by every test of a file, which must leave it serving."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.security.fleet import Authority, TlsAgent


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def other_authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def shared_agent(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TlsAgent]:
    agent = TlsAgent(tmp_path_factory.mktemp("agent"), "--tls")
    try:
        agent.join(authority)
        yield agent
    finally:
        agent.stop()


@pytest.fixture
def agent(shared_agent: TlsAgent, authority: Authority) -> Iterator[TlsAgent]:
    """The shared agent; whatever a test does to it, it serves afterwards."""
    yield shared_agent
    assert authority.client().security(shared_agent.address).device_id
