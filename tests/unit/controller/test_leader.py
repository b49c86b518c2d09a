"""Two replicas and one Lease: one leads, the other takes over only when it must, whatever their clocks say."""

from __future__ import annotations

import asyncio

from berth.controller.leader import Leader
from berth.effects.kube import Kube
from tests.unit.controller.apiserver import ApiServer, served

LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def replica(kube: Kube, name: str, clock: Clock) -> Leader:
    return Leader(kube, "ns", "l", name, 12, clock)


async def test_the_first_leads_the_second_waits_until_it_has_run_out() -> None:
    server, clock = ApiServer(), Clock()
    async with served(server) as kube:
        one, two = replica(kube, "one", clock), replica(kube, "two", clock)
        assert await one._try()
        assert not await two._try()
        clock.now += 11
        assert not await two._try()
        assert await one._try()  # renewed: two has to wait anew
        clock.now += 11
        assert not await two._try()
        clock.now += 13
        assert await two._try()
        assert server.objects[LEASE]["spec"]["holderIdentity"] == "two"
        assert server.objects[LEASE]["spec"]["leaseTransitions"] == 2
        assert not await one._try()


async def test_a_stale_time_in_the_lease_is_no_reason_to_take_it() -> None:
    server, clock = ApiServer(), Clock()
    async with served(server) as kube:
        spec = {"holderIdentity": "one", "leaseDurationSeconds": 12, "renewTime": "1999-01-01T00:00:00.000000Z"}
        server.put(LEASE, {"metadata": {"name": "l"}, "spec": spec})
        assert not await replica(kube, "two", clock)._try()


async def test_a_released_lease_is_free_at_once() -> None:
    server, clock = ApiServer(), Clock()
    async with served(server) as kube:
        one, two = replica(kube, "one", clock), replica(kube, "two", clock)
        await one.acquire()
        await one.release()
        assert await two._try()


async def test_two_at_the_same_moment_are_one() -> None:
    server, clock = ApiServer(), Clock()
    async with served(server) as kube:
        replicas = [replica(kube, f"r{i}", clock) for i in range(5)]
        assert sum(await asyncio.gather(*(r._try() for r in replicas))) == 1


async def test_who_cannot_renew_gives_up_before_another_may_lead() -> None:
    server, clock = ApiServer(), Clock()
    async with served(server) as kube:
        one = replica(kube, "one", clock)
        one._seconds = 3
        await one.acquire()
        assert one.give_up_after < 3
        kube.server = "http://127.0.0.1:9"
        keeping = asyncio.create_task(one.keep())
        clock.now += 2.1
        await asyncio.wait_for(keeping, 5)
