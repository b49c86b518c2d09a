"""Orders → domain XML, as golden files. `pytest tests/golden/domain --regen` writes them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from berth.api.order import Order
from berth.domain import build, files, xml
from berth.domain.host import Host
from berth.domain.observed import DomainState, ObservedDomain
from berth.domain.redaction import redacted
from tests.golden.domain.cases import cases

FOLDER = Path(__file__).parent
CASES = [pytest.param(order, host, id=name) for name, order, host in cases()]
UNSEEN = {
    "berth": "who holds the place does not change the machine",
    "user_data": "a secret: only on the seed disk",
    "user_data_file": "only on the seed disk",
    "network_data": "a secret: only on the seed disk",
    "folder": "the file is shown at a fixed path in the machine's folder",
    "path": "the file is shown at a fixed path in the machine's folder",
}
UNVARIED = {
    "uid": "one machine is as good as another",
    "mac": "one address is as good as another",
    "instance_id": "only on the seed disk",
    "hostname": "told by DHCP and on the seed disk",
    **dict.fromkeys(
        ("anti_spoofing", "inbound", "outbound", "segment", "interface", "addresses", "gateways", "dns", "search"),
        "the berth's network is made around the domain, not in it",
    ),
    "state": "a machine that is restored has the hardware that it was saved with",
    **dict.fromkeys(("incoming", "leaving", "outgoing", "forward", "doors"), "a machine that moves keeps its hardware"),
}


def domain_xml(order: Order, host: Host) -> str:
    taps = {nic.name: f"bt{index}" for index, nic in enumerate(order.machine.nics)}
    return xml.render(build.build(order, files.expected(order.uid, order.machine), taps, host))


@pytest.mark.parametrize(("order", "host"), CASES)
def test_golden(order: Order, host: Host, golden: Callable[[Path, str], None], request: pytest.FixtureRequest) -> None:
    golden(FOLDER / f"{request.node.callspec.id}.xml", domain_xml(order, host))


@pytest.mark.parametrize(("order", "host"), CASES)
def test_what_was_recorded_is_read_back(order: Order, host: Host) -> None:
    guest = xml.read(ObservedDomain(order.uid, "any", DomainState.RUNNING, domain_xml(order, host)))
    assert guest.order == redacted(order)
    assert (guest.guest_uid, guest.accelerator) == (host.guest_uid, host.accelerator)
    assert guest.machine == (order.machine.machine_type or host.machine)
    assert guest.cpu_mode == (order.machine.cpu.mode if order.machine.cpu else guest.cpu_mode)


@pytest.mark.parametrize(("order", "host"), CASES)
def test_no_secret_is_recorded(order: Order, host: Host) -> None:
    assert "secret" not in domain_xml(order, host)


def test_no_golden_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.xml")} == {name for name, _, _ in cases()}


def test_every_field_of_an_order_is_exercised() -> None:
    """A field that always has one value in the goldens is shown by none of them."""
    seen: dict[str, set[str]] = {}
    for _, order, _ in cases():
        for path, value in _fields(order):
            seen.setdefault(path, set()).add(repr(value))
    constant = sorted(path for path, values in seen.items() if len(values) < 2 and not _excused(path))
    assert not constant, f"give a case in cases.py another value for: {', '.join(constant)}"


def _excused(path: str) -> bool:
    return any(part in UNSEEN or part in UNVARIED for part in path.split("."))


def _fields(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        values = value if isinstance(value, tuple) else (value,)
        models = [item for item in values if isinstance(item, BaseModel)]
        if not models:
            yield prefix + name, value
        required = type(model).model_fields[name].is_required()
        for item in models:
            if not required:
                yield prefix + name, "given"
            yield from _fields(item, f"{prefix}{name}.")
