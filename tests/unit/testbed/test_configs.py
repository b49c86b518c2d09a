"""Topology → configuration files, and (mounts, settings) → the script that makes a node's view."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from testbed import errors, settings, topology
from testbed.cluster import configs, flannel, layout, network, nodes, objects

SHAPE = topology.parse((settings.REPOSITORY / "kind-config.yaml").read_text())
NODE = SHAPE.nodes[0]
WHERE = settings.Settings(Path("/run/bed"), Path("/var/lib/bed"), Path("/root/.cache/berth"))


def test_kubelet_runs_where_cgroups_and_capabilities_are_old_or_few() -> None:
    config = yaml.safe_load(configs.kubelet(NODE, SHAPE, "/bed/berth-worker"))
    assert config["failCgroupV1"] is False
    assert config["oomScoreAdj"] == 0
    assert config["cgroupRoot"] == "/bed/berth-worker"
    assert config["clusterDNS"] == ["10.96.0.10", "fd00:10:96::a"]


def test_kubelet_lets_nobody_in_without_a_certificate_or_token() -> None:
    config = yaml.safe_load(configs.kubelet(NODE, SHAPE, "/x"))
    assert config["authentication"]["anonymous"]["enabled"] is False
    assert config["authorization"]["mode"] == "Webhook"


def test_pods_are_routed_not_bridged() -> None:
    chain = json.loads(configs.network(NODE, configs.routed(NODE), SHAPE, 6443))
    assert [plugin["type"] for plugin in chain["plugins"]] == ["no-dad", "ptp", "portmap", "attach"]
    assert chain["plugins"][1]["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]


def test_flannel_brings_a_bridge_and_no_routes_of_ours(tmp_path: Path) -> None:
    where = settings.Settings(tmp_path / "s", tmp_path / "d", tmp_path / "c", cni="flannel")
    flannel.keep(where)
    assert flannel.chosen(where)
    chain = json.loads(configs.network(NODE, flannel.bridged(NODE), SHAPE, 6443))
    assert chain["plugins"][1]["ipam"] == configs.routed(NODE)["ipam"]
    assert json.loads(flannel.configuration(SHAPE))["IPv6Network"] == "fd00:10:244::/56"
    assert "10.244.2.0" not in network._node_commands(SHAPE, NODE, [])


def test_a_cluster_keeps_the_pod_network_it_was_made_with(tmp_path: Path) -> None:
    made = settings.Settings(tmp_path / "s", tmp_path / "d", tmp_path / "c")
    flannel.keep(made)
    made.pki.mkdir()
    other = dataclasses.replace(made, cni="flannel")
    with pytest.raises(errors.TestbedError, match="made with plain; run `down` first"):
        flannel.keep(other)
    assert not flannel.chosen(other)


def test_a_node_knows_its_own_name_and_every_other() -> None:
    text = configs.hosts(SHAPE, NODE)
    assert "10.200.0.11 berth-worker\n" in text
    assert "10.200.0.12 berth-worker2\nfd00:10:200::12 berth-worker2\n" in text


def test_name_servers_on_the_hosts_loopback_are_left_out() -> None:
    text = configs.resolv_conf("nameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch example.org\n")
    assert text == "nameserver 10.0.0.2\nsearch example.org\n"


def test_a_kubeconfig_needs_no_other_file() -> None:
    config = yaml.safe_load(configs.kubeconfig("https://10.0.0.1:6443", b"ca", b"cert", b"key"))
    assert config["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:6443"
    assert base64.b64decode(config["users"][0]["user"]["client-key-data"]) == b"key"
    assert config["current-context"] == config["contexts"][0]["name"]


def test_dns_answers_on_the_bridge_and_forwards_the_rest() -> None:
    text = configs.corefile(SHAPE, "/k", 10053, 10291)
    assert ".:10053 {\n  bind 10.200.0.1 fd00:10:200::1\n" in text
    assert "kubernetes cluster.local" in text


def test_only_what_leaves_the_cluster_is_masqueraded() -> None:
    rules = network.node_rules(SHAPE, NODE)
    expected = "ip saddr 10.244.1.0/24 ip daddr != { 10.200.0.0/24, 10.244.0.0/16, 10.96.0.0/16 } masquerade"
    assert expected in rules


def test_rules_are_replaced_in_one_transaction() -> None:
    rules = network.host_rules(WHERE, SHAPE)
    assert rules.index("table ip berth-testbed {}") < rules.index("delete table") < rules.index("chain out")


def test_mounts_of_other_tools_are_dropped_innermost_first() -> None:
    present = [
        nodes.Mount("/", "overlay"),
        nodes.Mount("/proc", "proc"),
        nodes.Mount("/sys/fs/cgroup/cpu", "cgroup"),
        nodes.Mount("/dev/pts", "devpts"),
        nodes.Mount("/home", "ext4"),
        nodes.Mount("/build/root", "overlay"),
        nodes.Mount("/build/root/sys/fs/cgroup", "cgroup2"),
    ]
    assert nodes.strays(present) == ["/build/root/sys/fs/cgroup", "/build/root"]


def test_mount_points_with_spaces_are_read() -> None:
    line = r"36 35 98:0 /a /mnt/with\040space rw,noatime shared:1 - ext4 /dev/root rw"
    assert nodes.parse_mounts(line) == [nodes.Mount("/mnt/with space", "ext4")]


def test_a_node_has_its_own_run_and_var_lib_shared_with_its_pods_only() -> None:
    lines = nodes.setup_script(WHERE, NODE, []).splitlines()
    assert lines[0] == "mount --make-rprivate /"
    assert "mount --bind /run/bed/nodes/berth-worker/run /run" in lines
    assert "mount --rbind /var/lib/bed/nodes/berth-worker/var/lib /var/lib" in lines
    # What is hidden by a later mount cannot be a source any more.
    assert lines.index("mount --make-rshared /") > lines.index(
        "mount --rbind /var/lib/bed/nodes/berth-worker/var/lib /var/lib"
    )


def test_the_cgroup_tree_is_carried_over_without_a_mount_on_the_host() -> None:
    script = nodes.setup_script(WHERE, NODE, [])
    order = ["mount --rbind /sys/fs/cgroup /run/bed/cgroup", "umount -R -l /sys", "mount -t sysfs sysfs /sys",
             "mount --rbind /run/bed/cgroup /sys/fs/cgroup", "umount -R -l /run/bed/cgroup"]  # fmt: skip
    assert [line for line in script.splitlines() if line in order] == order


def test_services_of_the_host_have_no_selector_but_endpoints() -> None:
    service = objects.service("kube-dns", ["10.96.0.10", "fd00:10:96::a"], [("dns", "UDP", 53)])
    slice_ = objects.endpoints("kube-dns", "10.200.0.1", [("dns", "UDP", 10053)])
    assert "selector" not in service["spec"]
    assert service["spec"]["ipFamilyPolicy"] == "RequireDualStack"
    assert service["spec"]["ports"][0]["name"] == slice_["ports"][0]["name"]
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == "kube-dns"


def test_ports_of_two_testbeds_differ() -> None:
    second = settings.Settings(Path("/a"), Path("/b"), Path("/c"), index=1)
    for port in (layout.api_port, layout.etcd_port, layout.dns_port, layout.metrics_port):
        assert port(WHERE) != port(second)
