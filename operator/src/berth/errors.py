"""The errors Berth raises, one class per boundary; a boundary translates what it catches once and chains the cause.

    BerthError
    ├── InvalidSpec          what a user wrote breaks a rule: names path, limit and given value
    ├── Unavailable          something we depend on does not answer now; asking again later may help
    │   ├── HypervisorDown   libvirtd cannot be reached
    │   └── AgentDown        a node's agent cannot be reached
    ├── Refused              the other side understood and said no; asking again changes nothing
    │   └── StaleEpoch       an order older than one already carried out
    └── HostFault            the node's kernel or a file on it did not do what was asked

Each carries a stable CamelCase ``reason`` (it becomes a condition's reason) and a message that ends with the next step.
"""

from __future__ import annotations


class BerthError(Exception):
    """The base of all: ``reason`` is a stable CamelCase word, ``str(error)`` a sentence for people."""

    reason: str = "Error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class InvalidSpec(BerthError):
    """A rule broken by what a user wrote: where, what the limit is, what was given."""

    reason = "InvalidSpec"

    def __init__(self, path: str, problem: str, *, given: object = None, reason: str | None = None) -> None:
        text = f"{path}: {problem}" + (f" (given: {given!r})" if given is not None else "")
        super().__init__(text, reason=reason)
        self.path = path
        self.problem = problem
        self.given = given


class Unavailable(BerthError):
    """Something we depend on does not answer now."""

    reason = "Unavailable"


class HypervisorDown(Unavailable):
    """libvirtd on this node cannot be reached."""

    reason = "HypervisorDown"


class AgentDown(Unavailable):
    """A node's agent cannot be reached."""

    reason = "AgentDown"


class Refused(BerthError):
    """The other side understood the request and said no."""

    reason = "Refused"


class StaleEpoch(Refused):
    """An order is older than one already carried out."""

    reason = "StaleEpoch"


class HostFault(BerthError):
    """The node's kernel, or a file on it, did not do what was asked."""

    reason = "HostFault"
