"""Raw objects become views; what cannot be read is named, never a crash."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from berth.api.virtualmachine import VirtualMachineStatus
from berth.plan import stored
from berth.plan.world import Object, format_time, parse_time, read_machine, read_pod, read_spec
from tests.unit.plan.cluster_worlds import KERNEL, vm

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["power", "restart", "cpu", "memory", "boot", "disks", "nics", "cloudInit", "display", "probes", "placement", "odd"]
)


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_no_spec_crashes_the_reader(fields: Object) -> None:
    spec, problem = read_spec({**KERNEL, **fields})
    assert (spec is None) == bool(problem)
    if spec is None:
        assert problem.startswith("spec")


def test_a_broken_rule_names_path_limit_and_value() -> None:
    spec, problem = read_spec({**KERNEL, "cpu": {"count": 999}, "memory": {"size": "12 apples"}})
    assert spec is None
    assert "spec.cpu.count" in problem
    assert "255" in problem
    assert "999" in problem
    assert "spec.memory.size" in problem
    assert "12 apples" in problem


def test_a_status_of_another_version_is_read_as_far_as_possible() -> None:
    status = stored.read(
        VirtualMachineStatus, {"phase": "Running", "epoch": 7, "node": "n", "new": 1, "conditions": [{"odd": 1}]}
    )
    assert status is not None
    assert (status.epoch, status.node, status.conditions) == (7, "n", [])
    assert stored.read(VirtualMachineStatus, {}) is None


def test_times() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert format_time(moment) == "2026-01-02T03:04:05Z"
    assert parse_time("2026-01-02T03:04:05Z") == moment
    assert parse_time("2026-01-02T04:04:05+01:00") == moment
    assert parse_time("2026-01-02T03:04:05") == moment
    assert parse_time("tomorrow") is None
    assert parse_time(None) is None


def test_a_pod_is_read() -> None:
    seen = read_pod(
        {
            "metadata": {
                "namespace": "a",
                "name": "berth-web",
                "uid": "u",
                "labels": {"berth.dev/vm-uid": "v"},
                "annotations": {"berth.dev/epoch": "x"},
                "ownerReferences": [{"name": "web"}],
            },
            "spec": {"nodeName": "n", "containers": [{"image": "i"}]},
            "status": {
                "phase": "Failed",
                "reason": "Evicted",
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
                "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}],
            },
        }
    )
    assert (seen.owner_uid, seen.machine_name, seen.epoch, seen.node, seen.image) == ("v", "web", 0, "n", "i")
    assert seen.terminal
    assert seen.ended is not None
    assert (seen.ended.exit_code, seen.ended.reason, seen.scheduling) == (137, "OOMKilled", None)


def test_a_machine_is_read() -> None:
    seen = read_machine(vm(metadata={"annotations": {"berth.dev/restartedAt": "2026-01-02T03:04:05Z"}}))
    assert seen.restarted_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert seen.spec is not None
    assert seen.status is None
