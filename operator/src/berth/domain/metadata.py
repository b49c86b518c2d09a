"""The Order in a domain's <metadata>: how an agent that was restarted knows what it runs. Order ↔ text ↔ element."""

from __future__ import annotations

import json
from typing import Final
from xml.etree.ElementTree import Element, register_namespace

from pydantic import ValidationError

from berth.api.order import Order
from berth.domain.redaction import redacted
from berth.errors import HostFault

NAMESPACE: Final = "https://berth.dev/xmlns/domain/1"
PREFIX: Final = "berth"
TAG: Final = f"{{{NAMESPACE}}}order"

register_namespace(PREFIX, NAMESPACE)


def to_json(order: Order) -> str:
    """The order without its secrets, in plain ASCII: it fits into any XML."""
    return json.dumps(redacted(order).model_dump(mode="json", by_alias=True, exclude_defaults=True))


def to_text(order_json: str) -> str:
    """The element as libvirt's set-metadata call wants it: without the prefix, which that call adds."""
    escaped = order_json.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<order>{escaped}</order>"


def from_element(domain: Element) -> Order:
    """The order recorded in a domain; HostFault when there is none that this version can read."""
    found = domain.find(f"metadata/{TAG}")
    if found is None or not found.text:
        raise HostFault("the domain has no order in its metadata: Berth did not make it", reason="MetadataMissing")
    try:
        return Order.model_validate_json(found.text)
    except ValidationError as error:
        text = f"the order in the domain's metadata cannot be read: {error}; it runs on, unmanaged, until it ends"
        raise HostFault(text, reason="MetadataUnreadable") from error
