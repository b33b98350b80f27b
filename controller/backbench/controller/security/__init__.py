"""Who this controller is, and the authority of its fleet: keys, certificates, what was issued and what is revoked."""

from backbench.controller.security.authority import Authority
from backbench.controller.security.identity import Identity
from backbench.controller.security.issued import Issued, Kind
from backbench.controller.security.pki import Pki, check_holder

__all__ = ["Authority", "Identity", "Issued", "Kind", "Pki", "check_holder"]
