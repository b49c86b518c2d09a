"""Two Ready nodes whose file systems are their own, with volumes and images as Berth needs them."""

from __future__ import annotations

from pathlib import Path

from testbed import files
from testbed.binaries import catalog
from testbed.cluster import cgroups, layout
from testbed.kube import Json, wait

from .conftest import TOOLS, Bed, Space, pod


def test_both_nodes_are_ready_in_the_pinned_version(bed: Bed) -> None:
    nodes = {node["metadata"]["name"]: node["status"] for node in bed.cluster.items("/api/v1/nodes")}
    assert set(nodes) == set(bed.workers)
    for status in nodes.values():
        assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
        assert status["nodeInfo"]["kubeletVersion"] == f"v{catalog.KUBERNETES}"


def test_each_node_has_its_own_name_folders_and_links(bed: Bed) -> None:
    for node in bed.topology.nodes:
        assert bed.on_node(node.name, "hostname").strip() == node.name
        assert bed.on_node(node.name, "getent", "ahostsv4", node.name).split()[0] == node.address
        bed.on_node(node.name, "touch", f"/run/only-{node.name}", f"/var/lib/only-{node.name}")
    one, two = bed.workers
    listing = bed.on_node(two, "ls", "/run", "/var/lib").split()
    assert f"only-{two}" in listing
    assert f"only-{one}" not in listing
    assert not Path(f"/run/only-{one}").exists()


def test_pods_run_inside_the_testbeds_cgroup(space: Space) -> None:
    node = space.bed.workers[0]
    space.start(pod("one", node))
    uid = space.get("one")["metadata"]["uid"]
    name = f"{layout.cgroup(space.bed.settings)}/{node}"
    own = {pid: files.read(Path(f"/proc/{pid}/cgroup")) or "" for pid in cgroups.processes(name)}  # some have ended
    found = [pid for pid, text in own.items() if f"pod{uid}" in text]
    assert len(found) == 2, "the sandbox's process and the container's"


def test_a_claim_binds_where_its_pod_runs_and_its_data_goes_with_it(space: Space) -> None:
    claim: Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    user = pod(
        "writer",
        "",
        mounts=[{"name": "data", "mountPath": "/data"}],
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        securityContext={"runAsUser": 65532, "fsGroup": 65532},
    )
    del user["spec"]["nodeName"]  # the claim waits for the scheduler's choice
    space.start(claim, user)
    space.execute("writer", "sh", "-c", "echo kept > /data/file")
    node = space.get("writer")["spec"]["nodeName"]
    folder = space.bed.settings.node_root(node) / layout.NODE_VOLUMES.relative_to("/")
    [volume] = [entry for entry in folder.iterdir() if (entry / "file").exists()]
    assert (volume / "file").read_text() == "kept\n"
    _no_pod_may_use_it_elsewhere(space, user, next(name for name in space.bed.workers if name != node))
    space.bed.cluster.kubectl("delete", "-n", space.name, "pod/writer", "pvc/data", "--wait=false")
    wait("the volume's folder is gone", lambda: not volume.exists(), 30)


def _no_pod_may_use_it_elsewhere(space: Space, user: Json, node: str) -> None:
    """The volume pins its pods to its node: the scheduler knows it, by the node's label."""
    spec = {**user["spec"], "nodeSelector": {"kubernetes.io/hostname": node}}
    space.bed.cluster.apply({**user, "metadata": {"name": "elsewhere"}, "spec": spec}, namespace=space.name)

    def refused() -> bool:
        conditions = space.get("elsewhere").get("status", {}).get("conditions", [])
        return any(c["type"] == "PodScheduled" and "volume" in c.get("message", "").lower() for c in conditions)

    wait("the scheduler says that the volume is on another node", refused, 20)
    space.bed.cluster.kubectl("delete", "-n", space.name, "pod/elsewhere", "--wait=false")


def test_an_image_can_be_mounted_as_a_volume(space: Space) -> None:
    space.start(
        pod(
            "reader",
            space.bed.workers[0],
            mounts=[{"name": "image", "mountPath": "/image"}],
            volumes=[{"name": "image", "image": {"reference": TOOLS, "pullPolicy": "Never"}}],
        )
    )
    assert "PRETTY_NAME" in space.execute("reader", "cat", "/image/etc/os-release")


def _sharing(name: str, node: str, propagation: str) -> Json:
    return pod(
        name,
        node,
        privileged=True,
        mounts=[{"name": "run", "mountPath": "/shared", "mountPropagation": propagation}],
        volumes=[{"name": "run", "hostPath": {"path": "/run/berth", "type": "DirectoryOrCreate"}}],
    )


def test_a_mount_made_in_one_pod_is_seen_by_the_node_and_its_pods_and_nowhere_else(space: Space) -> None:
    one, two = space.bed.workers
    makers = [_sharing("maker", one, "Bidirectional"), _sharing("sees", one, "HostToContainer")]
    space.start(*makers, _sharing("elsewhere", two, "HostToContainer"))
    space.execute(
        "maker", "sh", "-c", "mkdir -p /shared/made && mount -t tmpfs made /shared/made && touch /shared/made/x"
    )
    assert space.execute("sees", "ls", "/shared/made") == "x\n"
    assert space.bed.on_node(one, "ls", "/run/berth/made") == "x\n"
    assert "made" not in space.execute("elsewhere", "ls", "/shared")
    assert "made" not in Path("/proc/self/mountinfo").read_text()
    space.execute("maker", "umount", "/shared/made")
    assert space.execute("sees", "ls", "/shared/made") == ""


def test_ksm_and_devices_can_be_reached_by_a_privileged_pod(space: Space) -> None:
    """The agent sets memory merging through /sys and opens /dev/net/tun."""
    space.start(pod("agent", space.bed.workers[0], privileged=True, hostNetwork=True))
    space.execute("agent", "sh", "-c", "test -w /sys/kernel/mm && test -c /dev/net/tun")
