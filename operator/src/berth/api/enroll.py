"""How a node's agent gets its certificate: ``POST /v1/enroll`` at the controller, with its pod's token as the bearer.

The answer to a bad request is an ``order.Refusal``.
"""

from __future__ import annotations

from pydantic import Field

from berth.api.base import Lenient


class EnrollRequest(Lenient):
    csr: str = Field(max_length=16384)  # PEM; only its public key counts


class EnrollAnswer(Lenient):
    certificate: str  # PEM, for the node that the token names
