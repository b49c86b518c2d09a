"""The cache: the newest version wins, whichever way it came, and a berth that went is remembered."""

from __future__ import annotations

from berth.controller.cache import Cache
from berth.plan.world import Object
from tests.unit.plan.cluster_worlds import vm

KEY = ("default", "web")


def pod(uid: str = "p", version: int = 1, node: str = "", owner: str = "web") -> Object:
    meta = {"namespace": "default", "name": "berth-web", "uid": uid, "resourceVersion": str(version)}
    return {
        "metadata": {**meta, "ownerReferences": [{"name": owner}], "labels": {"berth.dev/vm-uid": "u"}},
        "spec": {"nodeName": node},
        "status": {"phase": "Running"},
    }


def test_late_news_hide_nothing() -> None:
    cache = Cache()
    assert cache.see_machine(vm(metadata={"resourceVersion": "9"}))
    assert not cache.see_machine(vm(metadata={"resourceVersion": "8"}))
    assert not cache.see_machine(vm(metadata={"resourceVersion": "9"}))
    assert cache.see_pod(pod(version=7, node="n")) == KEY
    assert cache.see_pod(pod(version=6)) is None
    found = cache.pod(KEY)
    assert found is not None
    assert found.node == "n"


def test_a_pod_that_went_does_not_come_back_and_is_remembered() -> None:
    cache = Cache()
    cache.see_machine(vm())
    cache.see_pod(pod(version=7))
    assert cache.lose_pod(("default", "berth-web"), None) == KEY
    assert cache.see_pod(pod(version=8)) is None
    assert cache.pod(KEY) is None
    departed = cache.departed(KEY)
    assert departed is not None
    assert departed.uid == "p"
    assert cache.see_pod(pod("q", 9)) == KEY
    assert cache.lose_pod(("default", "berth-web"), pod("p", 10)) is None  # a late word on the old one
    assert cache.pod(KEY) is not None
    assert cache.lose_pod(("default", "other"), None) is None


def test_what_is_large_and_unread_is_not_kept() -> None:
    cache = Cache()
    noise = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1000, "mine": "y"}
    cache.see_machine(vm(metadata={"managedFields": [{}], "annotations": noise}))
    meta = cache.machines[KEY]["metadata"]
    assert "managedFields" not in meta
    assert meta["annotations"] == {"mine": "y"}


def test_whom_news_of_a_node_are_about() -> None:
    cache = Cache()
    cache.see_machine(vm(status={"phase": "Unknown", "node": "old"}))
    assert cache.on_node("old") == [KEY]
    cache.see_pod(pod(version=2))
    assert cache.unplaced() == [KEY]
    cache.see_pod(pod(version=3, node="new"))
    assert cache.on_node("new") == [KEY]
    assert cache.unplaced() == []
    assert cache.pod_versions() == {("default", "berth-web"): 3}
    cache.lose_machine(KEY)
    assert cache.on_node("new") == []
