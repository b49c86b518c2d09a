"""Tables of nftables rules: scripts loaded when what is there is not what they make. Called by the kinds of NIC.

A table carries a digest of the script it was made from; with the number of rules that tells whether anybody changed it.
Every function works in the calling thread's network namespace.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from berth.effects import firewall
from berth.errors import HostFault

Table = tuple[str, str]
"""Family and name."""
_DIGEST: Final = "@digest@"
COMMENT: Final = f'comment "{_DIGEST}"'
"""What a script has in its first table, for the digest."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables that are replaced together. In ``text`` each is written as ``table family name {…}``."""

    names: tuple[Table, ...]
    ruleset: firewall.Ruleset


def build(names: Sequence[Table], text: str) -> Tables:
    """The script replaces all of them in one transaction: at no time is there a part of the rules."""
    clear = "".join(f"table {family} {name}\ndelete table {family} {name}\n" for family, name in names)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    script = clear + text.replace(_DIGEST, digest)
    return Tables(tuple(names), firewall.Ruleset(digest, firewall.parse(script).rules, script))


def stand(tables: Tables) -> bool:
    """Whether exactly these are there."""
    listings = [run("list", "table", family, name) for family, name in tables.names]
    return tables.ruleset.same_as(firewall.parse("".join(done.stdout for done in listings if done.returncode == 0)))


def load(tables: Tables) -> None:
    done = run("-f", "-", text=tables.ruleset.script)
    if done.returncode:
        message = f"nft refused the rules of {tables.names[0][1]}: {done.stderr.strip()[-500:]}"
        raise HostFault(message, reason="FirewallFailed")


def existing() -> set[Table]:
    """Every table of this network namespace."""
    rows = [line.split() for line in run("list", "tables").stdout.splitlines()]
    return {(words[1], words[2]) for words in rows if len(words) == 3}


def delete(tables: Sequence[Table]) -> None:
    """No error when they are not there."""
    if tables:  # most machines have none of these: no process for nothing
        run(
            "-f", "-", text="".join(f"table {family} {name}\ndelete table {family} {name}\n" for family, name in tables)
        )


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """nft with these arguments, and ``text`` as its input; what it says is in the answer."""
    try:
        return subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostFault(f"nft cannot be run: {error}; the agent's image holds it", reason="FirewallFailed") from error
