"""The agent's process, told of segments over its API as the controller tells it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from berth.api.order import SegmentMember, SegmentMembers
from berth.effects.folders import MachineFolders
from tests.contract.agents import NODE, Agent, Controller, agent_and_controller
from tests.contract.segment_lab import OVERLAY

MEMBER = SegmentMember(mac="52:54:00:09:00:01", addresses=("10.9.0.11",), node="other", node_address="192.0.2.2")


@pytest.fixture
async def both(tmp_path: Path, machines: MachineFolders) -> AsyncIterator[tuple[Agent, Controller]]:
    async with agent_and_controller(tmp_path, machines.root) as made:
        yield made


async def call(controller: Controller, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Until an agent is there to answer."""
    async with asyncio.timeout(20):
        while True:
            try:
                request = controller.session.request(method, path, data=body, server_hostname=NODE)
                async with request as answer:
                    text = await answer.text()
                    return answer.status, json.loads(text) if text else None
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


def told(version: int, *members: SegmentMember) -> bytes:
    return SegmentMembers(segment=OVERLAY, version=version, members=members).model_dump_json(by_alias=True).encode()


def guard() -> str:
    done = subprocess.run(
        ["nft", "-a", "list", "table", "inet", "berth_overlay"], capture_output=True, text=True, check=False
    )
    return done.stdout


async def test_members_are_taken_shown_and_not_made_older(both: tuple[Agent, Controller]) -> None:
    agent, controller = both
    path = f"/v1/segments/{OVERLAY.uid}"
    assert await call(controller, "PUT", path, told(2, MEMBER)) == (204, None)
    assert await call(controller, "PUT", path, told(1)) == (204, None)
    status, shown = await call(controller, "GET", "/v1/segments")
    assert (status, [(one["version"], len(one["members"])) for one in shown]) == (200, [(2, 1)])
    status, answer = await call(controller, "PUT", path, told(3, MEMBER.model_copy(update={"node_address": "b"})))
    assert (status, answer["reason"]) == (400, "InvalidSpec")
    assert "members[0].nodeAddress" in answer["message"]
    stands = guard()
    assert "udp dport 14789" in stands
    await agent.kill()
    await agent.start()
    assert await call(controller, "GET", "/v1/segments") == (200, [])
    assert guard() == stands  # handles and all: it was not loaded again
