"""HTTP to the API server: errors become ours, writes are counted, watches survive and lose no deletion."""

from __future__ import annotations

import asyncio

import pytest

from berth.effects.cluster import Cluster
from berth.effects.kube import WRITES, path
from berth.effects.ports_cluster import ApiRefused, Conflict, NotFound
from berth.effects.watches import Key, Watch
from berth.errors import Unavailable
from berth.plan.tell import Tell
from berth.plan.world import Object, read_machine
from tests.unit.controller.apiserver import ApiServer, served, until

PODS = "/api/v1/namespaces/a/pods"
MACHINE = "/apis/berth.dev/v1alpha1/namespaces/a/virtualmachines/web"


def pod(name: str, version: int = 1, **meta: object) -> Object:
    return {"metadata": {"namespace": "a", "name": name, "uid": name, "resourceVersion": str(version), **meta}}


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (403, "Forbidden", ApiRefused),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", Conflict),
        (422, "Invalid", ApiRefused),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
    ],
)
async def test_errors(code: int, reason: str, error: type[Exception]) -> None:
    server = ApiServer()
    async with served(server) as kube:
        server.answers.append((code, {"message": "exceeded quota: small", "reason": reason}))
        with pytest.raises(error, match="exceeded quota: small"):
            await kube.call("GET", PODS)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with served(ApiServer()) as kube:
        kube.server = "http://127.0.0.1:9"
        with pytest.raises(Unavailable, match="does not answer"):
            await kube.call("GET", PODS)
        with pytest.raises(Unavailable, match="broke"):
            _ = [line async for line in kube.lines(PODS, 1)]


async def test_writes_are_counted_reads_are_not_and_the_token_is_shown() -> None:
    server = ApiServer()
    async with served(server) as kube:
        before = WRITES.labels("Pod", "create")._value.get()
        await kube.call("POST", PODS, pod("x"), kind="Pod", verb="create")
        await kube.call("GET", f"{PODS}/x")
        assert WRITES.labels("Pod", "create")._value.get() == before + 1
        assert server.seen_headers["Authorization"] == "Bearer t"


def test_paths_are_quoted() -> None:
    assert path("/api/v1", "namespaces", "a/b", "pods") == "/api/v1/namespaces/a%2Fb/pods"


async def test_the_ports_requests() -> None:
    server = ApiServer()
    async with served(server) as kube:
        cluster = Cluster(kube, "c1")
        server.put(MACHINE, {"metadata": {"namespace": "a", "name": "web", "uid": "u"}, "spec": {}})
        machine = read_machine(server.objects[MACHINE])
        version = server.objects[MACHINE]["metadata"]["resourceVersion"]
        assert (await cluster.set_finalizers(machine, ["f"], version))["metadata"]["finalizers"] == ["f"]
        await cluster.write_status(machine, {"phase": "Running", "node": "n"})
        assert (await cluster.write_status(machine, {"node": None}))["status"] == {"phase": "Running"}
        assert await cluster.machine_names() == {("a", "web")}
        await cluster.create_pod(pod("x"))
        with pytest.raises(Conflict):
            await cluster.create_pod(pod("x"))
        assert (await cluster.pod("a", "x") or {})["metadata"]["name"] == "x"
        assert await cluster.delete_pod("a", "x", "x") is None
        assert await cluster.delete_pod("a", "x", "x") is None
        assert await cluster.pod("a", "x") is None
        await cluster.tell(machine, Tell("Running", "it runs"))
        (event,) = [o for p, o in server.objects.items() if "/events/" in p]
        assert (event["reason"], event["involvedObject"]["uid"], event["type"]) == ("Running", "u", "Normal")
        (seen,) = await cluster.pod_events("a", "x", "x")
        assert (seen.reason, seen.message) == ("Running", "it runs")
        assert "involvedObject.uid%3Dx" in server.calls[-1][1] or "involvedObject.uid=x" in server.calls[-1][1]
        server.put("/api/v1/nodes/n", {"metadata": {"name": "n"}})
        await cluster.label_node("n", {"berth.dev/kvm": "true"})
        assert (await cluster.node("n") or {})["metadata"]["labels"] == {"berth.dev/kvm": "true"}
        assert await cluster.node("m") is None


async def test_a_status_for_a_machine_of_another_uid_is_not_found() -> None:
    server = ApiServer()
    async with served(server) as kube:
        machine = read_machine({"metadata": {"namespace": "a", "name": "web", "uid": "u"}, "spec": {}})
        server.answers.append((409, {"message": "Precondition failed: UID", "reason": "Conflict"}))
        with pytest.raises(NotFound):
            await Cluster(kube, "c1").write_status(machine, {"phase": "Running"})


class Owner:
    """Who keeps what a watch tells."""

    def __init__(self) -> None:
        self.objects: dict[Key, int] = {}
        self.told: list[str] = []

    def seen(self, obj: Object) -> None:
        self.objects["a", obj["metadata"]["name"]] = int(obj["metadata"]["resourceVersion"])
        self.told.append(f"+{obj['metadata']['name']}")

    def gone(self, key: Key, last: Object | None) -> None:
        self.objects.pop(key, None)
        self.told.append(f"-{key[1]}{'' if last else '?'}")


async def test_a_watch_lists_follows_and_finds_lost_deletions_after_410() -> None:
    server, owner = ApiServer(), Owner()
    server.put(f"{PODS}/one", pod("one"))
    server.put(f"{PODS}/two", pod("two"))
    async with served(server) as kube:
        watch = Watch(kube, PODS, "l=v", owner.seen, owner.gone, lambda: owner.objects)
        task = asyncio.create_task(watch.run())
        await until(lambda: server.watches)
        assert watch.synced.is_set()
        assert owner.told == ["+one", "+two"]
        assert "labelSelector=l%3Dv" in server.calls[0][1] or "labelSelector=l=v" in server.calls[0][1]
        large = pod("three", 90, annotations={"x": "y" * 300_000})
        server.tell("ADDED", large)
        server.tell("BOOKMARK", {"metadata": {"resourceVersion": "91"}})
        server.tell("DELETED", pod("one", 92))
        await until(lambda: "-one" in owner.told)
        del server.objects[f"{PODS}/one"], server.objects[f"{PODS}/two"]
        server.version = 95
        owner.objects["a", "mine"] = 99  # made by us after the list: it must not be lost
        server.tell("ERROR", {"code": 410, "message": "too old"})
        await until(lambda: {"-two?", "-three?"} <= set(owner.told))
        assert ("a", "mine") in owner.objects
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    server, owner = ApiServer(), Owner()
    server.put(f"{PODS}/one", pod("one"))
    async with served(server) as kube:
        task = asyncio.create_task(Watch(kube, PODS, "l=v", owner.seen, owner.gone, lambda: owner.objects).run())
        await until(lambda: server.watches)
        server.tell("MODIFIED", pod("one", 77))
        await until(lambda: owner.objects["a", "one"] == 77)
        server.end_watches()
        await until(lambda: server.watches)
        lists = [q for _, q in server.calls if "limit=" in q]
        assert len(lists) == 1
        assert "resourceVersion=77" in server.calls[-1][1]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
