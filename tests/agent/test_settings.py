from __future__ import annotations

from pathlib import Path

import pytest

from backbench.agent.settings import Settings, uses_tls
from backbench.domain.errors import AddressUnusable, InvalidArgument


@pytest.mark.parametrize(
    ("listen", "tls", "insecure", "expected"),
    [
        ("127.0.0.1:50061", False, False, False),
        ("localhost:0", False, False, False),
        ("[::1]:0", False, False, False),
        ("127.0.0.1:0", True, False, True),
        ("0.0.0.0:50061", False, False, True),
        ("[::]:50061", False, False, True),
        ("192.168.1.7:50061", False, False, True),
        ("0.0.0.0:50061", False, True, False),
    ],
)
def test_beyond_loopback_there_is_tls_unless_plain_text_is_asked_for_in_so_many_words(
    tmp_path: Path, listen: str, tls: bool, insecure: bool, expected: bool
) -> None:
    assert uses_tls(Settings(listen, tmp_path, tls=tls, insecure_plaintext=insecure)) is expected


@pytest.mark.parametrize("listen", ["", "127.0.0.1", ":50061", "host:", "host:port", "127.0.0.1:65536", "::1"])
def test_an_address_that_does_not_parse_is_refused(tmp_path: Path, listen: str) -> None:
    with pytest.raises((InvalidArgument, AddressUnusable)):
        uses_tls(Settings(listen, tmp_path))


def test_tls_and_plain_text_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="contradict"):
        uses_tls(Settings("0.0.0.0:1", tmp_path, tls=True, insecure_plaintext=True))
