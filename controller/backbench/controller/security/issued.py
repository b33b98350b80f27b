"""What an authority has issued. What of it is revoked stands in the list of revoked certificates and nowhere else."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from enum import Enum

from backbench.domain.errors import StoreUnusable
from backbench.domain.security import Role

SCHEMA = "backbench.issued/1"


class Kind(Enum):
    """Whom a certificate is for."""

    CLIENT = "client"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate: `serial` in hex, `role` of a client, `device_id` of a device."""

    serial: str
    kind: Kind
    name: str
    not_after_unix_s: int
    role: Role | None = None
    device_id: str = ""

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.not_after_unix_s <= time.time()


def to_json(issued: tuple[Issued, ...]) -> bytes:
    """The index as it is kept."""
    rows = [
        {**asdict(each), "kind": each.kind.value, "role": None if each.role is None else each.role.value}
        for each in issued
    ]
    return json.dumps({"schema": SCHEMA, "issued": rows}, indent=1).encode() + b"\n"


def from_json(data: bytes, source: str) -> tuple[Issued, ...]:
    """The index, oldest first. Raises StoreUnusable."""
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise StoreUnusable(f"{source} was written by a newer Backbench; update this one")
        return tuple(
            Issued(
                **{**row, "kind": Kind(row["kind"]), "role": None if row["role"] is None else Role(row["role"])},
            )
            for row in document["issued"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnusable(f"{source} is damaged; put it back from a copy of the store's folder pki") from error
