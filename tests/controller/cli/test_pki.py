"""`backbench pki` without a device."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def elsewhere(backbench: Any, tmp_path: Path) -> Callable[..., Any]:
    """The command line of another laptop."""
    return lambda *arguments, **named: backbench("--store", str(tmp_path / "elsewhere"), *arguments, **named)


def test_a_controller_without_a_fleet_says_how_to_come_by_one(backbench: Any, home: Path) -> None:
    assert "backbench pair HOST" in backbench("pki", "list").out
    listed = backbench("pki", "list", "--json").json
    assert (listed["fleet_id"], listed["identity"], listed["issued"]) == (None, None, [])
    for arguments in (("issue", "ana", "--role", "viewer", "--out", "x.pem"), ("revoke", "ana"), ("renew",)):
        assert "backbench pki init" in backbench("pki", *arguments, status=2).err
    assert not (home / "pki").exists()


def test_a_fleet_is_made_once(backbench: Any, home: Path) -> None:
    assert "the lab" in backbench("pki", "init", "--name", "the lab").out
    key = (home / "pki" / "authority.key").read_bytes()
    refused = backbench("pki", "init", status=2)
    assert refused.err.count("\n") == 1
    assert "holds keys already" in refused.err
    assert (home / "pki" / "authority.key").read_bytes() == key


def test_what_was_issued_is_listed_with_its_role_its_end_and_its_state(backbench: Any, tmp_path: Path) -> None:
    backbench("pki", "init")
    out = tmp_path / "ana.pem"
    backbench("pki", "issue", "ana", "--role", "operator", "--days", "7", "--out", str(out))
    backbench("pki", "issue", "ben", "--role", "viewer", "--out", str(tmp_path / "ben.pem"))
    backbench("pki", "revoke", "ben")
    listed = backbench("pki", "list", "--json").json
    assert listed["identity"]["role"] == "admin"
    assert listed["revocation_number"] > 1
    own, ana, ben = listed["issued"]
    assert (own["name"], own["role"]) == (listed["identity"]["name"], "admin")
    assert (ana["role"], ana["state"], ben["state"]) == ("operator", "valid", "revoked")
    assert 0 < ben["not_after_unix_s"] - ana["not_after_unix_s"] <= 23 * 86400 + 60
    table = backbench("pki", "list").out
    for words in ("ana", "operator", "revoked", ana["serial"][:12]):
        assert words in table
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    refused = backbench("pki", "issue", "ana", "--role", "operator", "--out", str(out), status=2)
    assert "exists and stays as it is" in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("issue", "a b", "--role", "viewer", "--out", "x.pem"), "cannot be a name"),
        (("issue", "ana", "--role", "king", "--out", "x.pem"), "king"),
        (("issue", "ana", "--role", "pairing", "--out", "x.pem"), "pairing"),
        (("issue", "ana", "--role", "viewer", "--days", "0", "--out", "x.pem"), "--days"),
        (("issue", "ana", "--role", "viewer", "--out", "no/such/x.pem"), "no/such/x.pem"),
        (("import", "no/such/x.pem"), "no/such/x.pem"),
        (("import", "/dev/null"), "not a file of backbench pki issue"),
        (("revoke", "nobody"), "see backbench pki list"),
        (("renew", "nobody"), "nobody"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    backbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    backbench("pki", "init")
    refused = backbench("pki", *arguments, status=2)
    assert refused.out == ""
    assert refused.err.startswith("backbench: error: ")
    assert refused.err.count("\n") == 1
    assert words in refused.err
    assert not (tmp_path / "x.pem").exists()


def test_an_imported_identity_can_pair_and_issue_nothing(backbench: Any, elsewhere: Any, tmp_path: Path) -> None:
    backbench("pki", "init")
    backbench("pki", "issue", "ana", "--role", "admin", "--out", str(tmp_path / "ana.pem"))
    elsewhere("pki", "import", str(tmp_path / "ana.pem"))
    listed = elsewhere("pki", "list", "--json").json
    assert (listed["identity"]["name"], listed["authority"], listed["issued"]) == ("ana", None, [])
    for arguments in (("pki", "renew"), ("pair", "127.0.0.1:1", "--code", "AAAA-BBBB-CCCC-DDDD")):
        assert "only the controller that issued it" in elsewhere(*arguments, status=2).err


def test_a_device_in_plain_text_has_no_certificate_to_renew(backbench: Any) -> None:
    backbench("pki", "init")
    backbench("device", "add", "here", "127.0.0.1:1", "--no-check")
    assert "in plain text" in backbench("pki", "renew", "here", status=2).err
    assert backbench("pki", "renew").out == ""
