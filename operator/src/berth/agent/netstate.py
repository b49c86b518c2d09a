"""A machine's live network on this node, as text for people: a berth pod's uid in, what the kernel says of it out.

`python -m berth.agent.netstate POD_UID` in the agent's container; `berth net` runs it there. It only looks.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Final

from berth.agent.settings import Settings
from berth.effects import berths, namespaces, paths, segment_devices, segment_space
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders

Looks = tuple[tuple[str, tuple[str, ...]], ...]
INSIDE: Final[Looks] = (
    ("links", ("ip", "-s", "-d", "link", "show")),
    ("addresses", ("ip", "-br", "address", "show")),
    ("neighbours", ("ip", "neighbour", "show")),
    ("routes", ("ip", "route", "show")),
    ("routes, IPv6", ("ip", "-6", "route", "show")),
    ("routes of doors", ("ip", "rule", "show")),
    ("routes of doors, all tables", ("ip", "route", "show", "table", "all", "type", "unicast")),
    ("routes of doors, IPv6", ("ip", "-6", "rule", "show")),
    ("routes of doors, IPv6, all tables", ("ip", "-6", "route", "show", "table", "all", "type", "unicast")),
    ("bandwidth limits", ("tc", "-s", "qdisc", "show")),
    ("rules", ("nft", "list", "ruleset")),
)
"""In the berth's network namespace."""
SEGMENTS: Final[Looks] = (
    ("devices", ("ip", "-d", "link", "show")),
    ("ports of bridges", ("bridge", "link", "show")),
    ("who is where", ("bridge", "fdb", "show")),
)
"""In the namespace that the agent keeps overlays and VLANs in."""
NODE: Final[Looks] = (("ports of bridges", ("bridge", "link", "show")),)
"""In the node's own, where the bridges of Networks by bridge are."""


def look(words: tuple[str, ...]) -> str:
    """What a tool says; what is wrong with it when it says nothing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{words[0]} cannot be run: {error}"
    return (done.stdout or done.stderr).rstrip() or "nothing"


def show(title: str, text: str) -> None:
    print(f"--- {title}")
    print("\n".join(f"  {line}" for line in text.splitlines()))


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m berth.agent.netstate POD_UID", file=sys.stderr)
        return 2
    berth = NodeBerths(MachineFolders(Path(Settings.model_fields["vms_folder"].default))).find(sys.argv[1])
    if berth is None:
        print(f"the berth process of pod {sys.argv[1]} is not on this node", file=sys.stderr)
        return 1
    with paths.closing(berths.open_namespace(berth, "net")) as netns:
        for title, words in INSIDE:
            show(f"berth: {title}", namespaces.in_network(netns, functools.partial(look, words)))
    kept = segment_space.find(segment_devices.SPACE)
    if kept is not None:
        with paths.closing(kept):
            for title, words in SEGMENTS:
                show(f"segments: {title}", namespaces.in_network(kept, functools.partial(look, words)))
    for title, words in NODE:
        show(f"node: {title}", look(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
