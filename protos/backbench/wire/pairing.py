"""One-time codes by which an agent and a controller come to trust each other.

A code is 80 random bits. Both sides derive the same authority from it, sign a certificate each, and trust that
authority until the code is used or expires. So TLS itself shows that either side knows the code, and what somebody in
the middle could see of it is the public key of an 80-bit secret that is worth something for minutes.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import secrets
from typing import TYPE_CHECKING

from backbench.domain.errors import InvalidArgument
from backbench.domain.security import Role
from backbench.wire.certificates import DOMAIN, key_id, make_authority, sign_client, sign_server

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

PAIRING_LIFETIME = datetime.timedelta(hours=26)
"""For clocks that are up to a day apart: how long a code itself is good the agent alone knows."""
_SUBJECT = "Backbench pairing"
_BYTES = 10
_LENGTH = 16
# The order of the group of P-256 (FIPS 186-4, D.1.2.3).
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def new_code() -> str:
    """A pairing code: 80 random bits as four groups of four letters and digits."""
    return _grouped(base64.b32encode(secrets.token_bytes(_BYTES)).decode())


def normal_code(text: str) -> str:
    """A code as typed by a person, in its one form. Raises InvalidArgument; the text of the code is not repeated."""
    # Base 32 has no 0, 1 or 8, so these can only be meant for the letters that they look like.
    letters = "".join(text.split()).replace("-", "").upper().translate(str.maketrans("018", "OIB"))
    if len(letters) != _LENGTH or not set(letters) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"):
        raise InvalidArgument("a pairing code has 16 letters and digits, as in ABCD-EFGH-IJKL-MNOP; type it again")
    return _grouped(letters)


def pairing_authority(code: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The authority that both sides derive from a code."""
    from cryptography.hazmat.primitives.asymmetric import ec

    # 512 bits reduced to 256, so that no value of the key is likelier than another.
    digest = hashlib.sha512(b"backbench pairing 1 " + normal_code(code).encode()).digest()
    key = ec.derive_private_key(int.from_bytes(digest, "big") % (_ORDER - 1) + 1, ec.SECP256R1())
    return key, make_authority(key, f"{_SUBJECT} {key_id(key.public_key())[:16]}")


def pairing_id(authority: x509.Certificate) -> str:
    """What tells one pairing code from another and may be shown and logged: it does not lead back to the code."""
    return key_id(authority.public_key())[:16]  # type: ignore[arg-type]


def pairing_name(code: str) -> str:
    """The server name of an agent towards a controller that has this pairing code of it."""
    return _pairing_name(pairing_authority(code)[1])


def sign_pairing_server(code: str, device: ec.EllipticCurvePublicKey) -> x509.Certificate:
    """The certificate by which an agent shows that it knows the code."""
    key, authority = pairing_authority(code)
    return sign_server(key, authority, device, _SUBJECT, (_pairing_name(authority),), PAIRING_LIFETIME)


def sign_pairing_client(code: str, client: ec.EllipticCurvePublicKey) -> x509.Certificate:
    """The certificate by which a controller shows that it knows the code."""
    key, authority = pairing_authority(code)
    return sign_client(key, authority, client, _SUBJECT, Role.PAIRING, lifetime=PAIRING_LIFETIME)


def _pairing_name(authority: x509.Certificate) -> str:
    return f"pairing-{pairing_id(authority)}.{DOMAIN}"


def _grouped(letters: str) -> str:
    return "-".join(letters[at : at + 4] for at in range(0, _LENGTH, 4))
