"""The testbed's own errors, each with the next step in its message. Raised everywhere here, printed once by cli.py.

TestbedError
├── CommandFailed      a program we ran ended with a non-zero code
├── Unavailable        a binary or package can be had from no source
├── NotReady           something did not become ready before its deadline
└── BadTopology        kind-config.yaml says something the built-in cluster cannot do
"""

from __future__ import annotations

from collections.abc import Sequence


class TestbedError(Exception):
    """Anything that a person has to act on."""

    __test__ = False  # the name begins with "Test": pytest must not collect it


class CommandFailed(TestbedError):
    """A program ended with a non-zero code; the message holds the end of what it printed."""

    def __init__(self, argv: Sequence[str], code: int, output: str) -> None:
        self.argv, self.code, self.output = tuple(argv), code, output
        tail = "\n".join(output.strip().splitlines()[-15:])
        words = " ".join(argv).splitlines()[0]
        command = words if len(words) < 200 else f"{words[:200]}…"
        super().__init__(f"`{command}` ended with code {code}\n{tail}".rstrip())


class Unavailable(TestbedError):
    """Neither the machine, the cache, a download nor a build gave what was needed."""


class NotReady(TestbedError):
    """A deadline passed; the message names the log to read."""


class BadTopology(TestbedError):
    """kind-config.yaml holds a value that the built-in cluster cannot honour."""
