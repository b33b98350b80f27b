from __future__ import annotations

import pytest

from backbench.controller.client.address import is_loopback, normal_address
from backbench.domain.errors import InvalidArgument


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("orin.local", "orin.local:50061"),
        (" 10.0.0.5:7000 ", "10.0.0.5:7000"),
        ("localhost:1", "localhost:1"),
        ("::1", "[::1]:50061"),
        ("[fe80::1]:99", "[fe80::1]:99"),
        ("[::1]", "[::1]:50061"),
        ("pi_4:0080", "pi_4:80"),
    ],
)
def test_an_address_is_brought_into_one_form(written: str, meant: str) -> None:
    assert normal_address(written) == meant
    assert normal_address(meant) == meant


@pytest.mark.parametrize(
    "written",
    ["", ":50061", "host:", "host:port", "host:0", "host:65536", "host:-1", "http://host:1", "a b:1", "[::1]x"],
)
def test_what_is_no_address_is_refused_with_the_form(written: str) -> None:
    with pytest.raises(InvalidArgument, match=r"HOST:PORT|1 to 65535"):
        normal_address(written)


@pytest.mark.parametrize(
    ("address", "stays"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
        ("orin:1", False),
    ],
)
def test_loopback_is_told_by_the_text_alone(address: str, stays: bool) -> None:
    assert is_loopback(address) is stays
