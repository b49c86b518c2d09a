"""An Order without its secrets: what may be written into a domain's metadata, where any reader of libvirt sees it."""

from __future__ import annotations

from berth.api.kept import StateOrder
from berth.api.order import Order


def redacted(order: Order) -> Order:
    """cloud-init's documents go: they hold passwords and keys, and nobody needs them once the disk is made."""
    of_the_hour = {"leaving": None, "outgoing": None, "forward": None, "state": _unsaved(order.state)}  # not for later
    order = order.model_copy(update=of_the_hour)
    seed = order.machine.cloud_init
    if seed is None:
        return order
    bare = seed.model_copy(update={"user_data": None, "network_data": None})
    return order.model_copy(update={"machine": order.machine.model_copy(update={"cloud_init": bare})})


def _unsaved(state: StateOrder | None) -> StateOrder | None:
    return None if state is None else state.model_copy(update={"save": False, "snapshot": None, "forget": ()})
