"""Turns (policies, pods, namespaces) into one node's nftables rules. Pure; engine.py calls it and loads the text.

A pod's rules are enforced where it runs, on what its node forwards and, for egress, on what the node itself takes in.
Inside a pod's chain `return` means allowed: the other end of the connection may have a say too. Named ports are those
of the pod that is connected to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Object = Mapping[str, Any]
Direction = Literal["ingress", "egress"]
TABLE = "berth-policy"
HEAD = f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n"
WORDS: Mapping[Direction, tuple[str, str]] = {"ingress": ("from", "saddr"), "egress": ("to", "daddr")}


@dataclass(frozen=True, slots=True)
class World:
    """What the API server says."""

    policies: Sequence[Object] = field(default_factory=tuple)
    pods: Sequence[Object] = field(default_factory=tuple)
    namespaces: Sequence[Object] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Peers:
    """One side of a rule: nft matches for its addresses, and the pods behind them, if they are pods."""

    matches: tuple[str, ...]
    pods: tuple[Object, ...] = ()


def of_families(world: World, families: Sequence[str]) -> World:
    """As if pods had addresses of these families only: what has no address is not guarded here."""

    def trimmed(pod: Object) -> Object:
        kept = [entry for entry in pod.get("status", {}).get("podIPs") or [] if _family(entry["ip"]) in families]
        return {**pod, "status": {**pod.get("status", {}), "podIPs": kept}}

    return replace(world, pods=[trimmed(pod) for pod in world.pods])


def ruleset(world: World, node: str) -> str:
    """The table for one node; loading it replaces the one before in one transaction."""
    jumps: dict[Direction, list[str]] = {"ingress": [], "egress": []}
    chains: list[str] = []
    local = [pod for pod in world.pods if pod["spec"].get("nodeName") == node and addresses(pod)]
    for pod in sorted(local, key=lambda pod: str(pod["metadata"]["uid"])):
        for direction, word in (("ingress", "daddr"), ("egress", "saddr")):
            body = _body(world, pod, direction)  # type: ignore[arg-type]
            if body is None:
                continue
            name = f"{direction}-{pod['metadata']['uid']}"
            chains.append(_chain(name, [*body, "drop"]))
            jumps[direction] += [f"{_family(ip)} {word} {ip} jump {name}" for ip in addresses(pod)]  # type: ignore[index]
    if not chains:
        return HEAD
    # Whoever may not reach its node must still find the way through it, or over its bridge.
    neighbours = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept"
    start = ["ct state established,related accept", neighbours]
    forward = ["type filter hook forward priority filter", *start, *jumps["egress"], *jumps["ingress"]]
    taken_in = ["type filter hook input priority filter", *start, *jumps["egress"]]
    parts = [*chains, _chain("forward", forward), _chain("input", taken_in)]
    return f"{HEAD}table inet {TABLE} {{\n{''.join(parts)}}}\n"


def _chain(name: str, lines: Iterable[str]) -> str:
    return f"  chain {name} {{\n" + "".join(f"    {line};\n" for line in lines) + "  }\n"


def _body(world: World, pod: Object, direction: Direction) -> list[str] | None:
    """What the pod's chain allows; None when no policy isolates the pod in this direction."""
    chosen = [policy for policy in world.policies if _applies(policy, pod, direction)]
    if not chosen:
        return None
    itself = [f"{_family(ip)} saddr {ip} {_family(ip)} daddr {ip} return" for ip in addresses(pod)]
    rules = [rule for policy in chosen for rule in _allowed(world, policy, pod, direction)]
    return [*itself, *dict.fromkeys(rules)]


def _applies(policy: Object, pod: Object, direction: Direction) -> bool:
    spec = policy["spec"]
    kinds = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and direction.capitalize() in kinds and selects(spec.get("podSelector") or {}, _labels(pod))


def _allowed(world: World, policy: Object, pod: Object, direction: Direction) -> Iterable[str]:
    key, word = WORDS[direction]
    for rule in policy["spec"].get(direction) or []:
        ports = rule.get("ports") or []
        for peers in _peers(world, policy, rule.get(key) or [], word):
            if direction == "ingress" or not any(isinstance(port.get("port"), str) for port in ports):
                yield from _lines(peers.matches, ports, pod)
                continue
            for peer in peers.pods:  # a name can mean another number on each of them
                yield from _lines(tuple(f"{_family(ip)} {word} {ip}" for ip in addresses(peer)), ports, peer)


def _lines(matches: Sequence[str], ports: Sequence[Object], target: Object) -> Iterable[str]:
    wanted = [_port(port, target) for port in ports] if ports else [""]
    return [" ".join(filter(None, (match, port, "return"))) for match in matches for port in wanted if port is not None]


def _peers(world: World, policy: Object, peers: Sequence[Object], word: str) -> Iterable[Peers]:
    if not peers:
        yield Peers(("",))
    for peer in peers:
        if "ipBlock" in peer:
            yield Peers((_block(peer["ipBlock"], word),))
            continue
        spaces = _namespaces(world, policy, peer)
        selector = peer.get("podSelector") or {}
        found = [p for p in world.pods if p["metadata"]["namespace"] in spaces and selects(selector, _labels(p))]
        yield Peers(tuple(_match(word, [ip for pod in found for ip in addresses(pod)])), tuple(found))


def _namespaces(world: World, policy: Object, peer: Object) -> set[str]:
    if "namespaceSelector" not in peer:
        return {policy["metadata"]["namespace"]}
    selector = peer["namespaceSelector"] or {}
    return {str(space["metadata"]["name"]) for space in world.namespaces if selects(selector, _labels(space))}


def _match(word: str, found: Sequence[str]) -> Iterable[str]:
    for family in ("ip", "ip6"):
        if mine := sorted({ip for ip in found if _family(ip) == family}):
            yield f"{family} {word} {{ {', '.join(mine)} }}"


def _block(block: Object, word: str) -> str:
    family = _family(block["cidr"])
    without = f" {family} {word} != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
    return f"{family} {word} {block['cidr']}{without}"


def _port(port: Object, target: Object) -> str | None:
    """An nft match; None for a name that the target does not have."""
    protocol, number = str(port.get("protocol", "TCP")).lower(), port.get("port")
    if number is None:
        return f"meta l4proto {protocol}"
    if isinstance(number, str):
        containers = [p for c in target["spec"].get("containers", []) for p in c.get("ports", [])]
        named = (p for p in containers if p.get("name") == number and p.get("protocol", "TCP").lower() == protocol)
        number = next((p["containerPort"] for p in named), None)
        if number is None:
            return None
    last = f"-{port['endPort']}" if port.get("endPort") else ""
    return f"{protocol} dport {number}{last}"


def addresses(pod: Object) -> list[str]:
    """A pod's own addresses: none while it has none, when it has ended, and when it uses its node's."""
    status = pod.get("status", {})
    if pod["spec"].get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        return []
    return [str(entry["ip"]) for entry in status.get("podIPs") or []]


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """A label selector; an empty one selects everything."""
    exact = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return exact and all(_holds(wanted, labels) for wanted in selector.get("matchExpressions") or [])


def _holds(wanted: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(wanted["key"]), wanted.get("values") or []
    operators: Mapping[str, Callable[[], bool]] = {
        "In": lambda: value in values,
        "NotIn": lambda: value not in values,
        "Exists": lambda: value is not None,
        "DoesNotExist": lambda: value is None,
    }
    return operators[wanted["operator"]]()


def _labels(found: Object) -> Mapping[str, str]:
    return found["metadata"].get("labels") or {}


def _family(address: str) -> str:
    return "ip6" if ipaddress.ip_network(address, strict=False).version == 6 else "ip"
