"""The Hypervisor port's contract, against all three: a node in memory, libvirt's test driver, and libvirt with QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from berth.api.order import OrderPower
from berth.domain import metadata, xml
from berth.domain.observed import DomainState
from berth.domain.redaction import redacted
from berth.effects.hypervisor import Libvirt
from berth.effects.ports import DomainEventKind
from berth.effects.ports_moving import Way
from berth.errors import BerthError, HostFault
from berth.plan.method import Kind, Method
from tests.contract import libvirtd
from tests.contract.libvirtd import Bench

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(params=["memory", "test-driver", "qemu"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    match request.param:
        case "memory":
            made: Bench = libvirtd.memory()
        case "test-driver":
            made = libvirtd.TestDriverBench(libvirtd.TestDriver())
        case _:
            libvirtd.Daemon().start()
            made = libvirtd.QemuBench(Libvirt())
    yield made
    made.close()


def state(bench: Bench) -> DomainState | None:
    found = bench.hypervisor.domain(bench.uid)
    return None if found is None else found.state


def test_nothing_is_there_at_first(bench: Bench) -> None:
    assert bench.hypervisor.domains() == []
    assert bench.hypervisor.domain(UNKNOWN) is None
    assert bench.hypervisor.versions().libvirt


def test_what_somebody_else_runs_is_none_of_ours() -> None:
    """libvirt's test driver comes with a domain."""
    foreign = libvirt.open("test:///default").lookupByName("test").UUIDString()
    made = libvirtd.TestDriver()
    assert made.domain(foreign) is None
    assert made.domains() == []
    made.close()


def test_a_domain_is_created_paused_and_only_once(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    bench.hypervisor.create_paused(bench.xml())
    [found] = bench.hypervisor.domains()
    assert found == bench.hypervisor.domain(bench.uid)
    assert (found.uid, found.state, found.detail) == (bench.uid, DomainState.PAUSED, "user")
    assert xml.read(found).order == redacted(bench.order)
    bench.heard(DomainEventKind.STARTED, "booted")


def test_it_is_resumed_and_suspended_as_often_as_asked(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    hypervisor.create_paused(bench.xml())
    for _ in range(2):
        hypervisor.resume(bench.uid)
        assert state(bench) is DomainState.RUNNING
    for _ in range(2):
        hypervisor.suspend(bench.uid)
        assert state(bench) is DomainState.PAUSED
    bench.heard(DomainEventKind.RESUMED)
    bench.heard(DomainEventKind.SUSPENDED)


def test_destroying_ends_it_at_once_and_again_is_no_error(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    bench.hypervisor.destroy(bench.uid)
    assert state(bench) is None
    bench.hypervisor.destroy(bench.uid)
    bench.heard(DomainEventKind.STOPPED, "destroyed")
    bench.hypervisor.create_paused(bench.xml())  # and nothing of the first is in the way
    assert state(bench) is DomainState.PAUSED


def test_the_recorded_order_is_replaced(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    order = bench.order.model_copy(update={"generation": 9, "power": OrderPower.PAUSED, "name": "<&>'\"ü"})
    for _ in range(2):
        bench.hypervisor.set_metadata(bench.uid, metadata.to_json(order))
        found = bench.hypervisor.domain(bench.uid)
        assert found is not None
        assert xml.read(found).order == redacted(order)


def test_what_is_not_there_cannot_be_changed(bench: Bench) -> None:
    hypervisor = bench.hypervisor
    for change in (hypervisor.resume, hypervisor.suspend, lambda uid: hypervisor.set_metadata(uid, "{}")):
        with pytest.raises(HostFault) as raised:
            change(UNKNOWN)
        assert raised.value.reason == "DomainGone"
    hypervisor.destroy(UNKNOWN)
    hypervisor.press_power_button(UNKNOWN)


def test_a_guest_without_an_agent_says_nothing(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    if bench.guest_runs or isinstance(bench.hypervisor, Libvirt):
        assert libvirtd.within(5, lambda: bench.hypervisor.guest_info(bench.uid)) >= 0
    assert not bench.hypervisor.guest_info(bench.uid).agent_connected


def test_the_power_button_shuts_a_guest_down(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    bench.hypervisor.resume(bench.uid)
    bench.wait_ready()
    bench.hypervisor.press_power_button(bench.uid)
    bench.gone()
    bench.heard(DomainEventKind.STOPPED, "shutdown")


def test_nothing_is_sent_before_it_is_asked_for(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    assert bench.hypervisor.transfer(bench.uid) is None
    assert bench.hypervisor.transfer(UNKNOWN) is None
    bench.hypervisor.abort_migration(bench.uid)
    bench.hypervisor.abort_migration(UNKNOWN)
    bench.hypervisor.allow_pause(bench.uid, 100)
    bench.hypervisor.allow_pause(UNKNOWN, 100)
    assert state(bench) is DomainState.PAUSED


def test_a_disk_that_is_not_there_has_no_size(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    for uid, target in ((UNKNOWN, "vda"), (bench.uid, "vdz")):
        with pytest.raises(HostFault):
            bench.hypervisor.disk_bytes(uid, target)


def test_a_guest_that_nobody_takes_stays(bench: Bench, tmp_path: Path) -> None:
    way = Way(str(tmp_path / "nobody"), str(tmp_path / "memory"), bench.xml(), Method(Kind.PRECOPY, "a test", 300))
    bench.hypervisor.create_paused(bench.xml())
    bench.hypervisor.resume(bench.uid)
    for uid in (bench.uid, UNKNOWN):
        with pytest.raises(BerthError):
            bench.hypervisor.migrate(uid, way)
    assert state(bench) is DomainState.RUNNING
