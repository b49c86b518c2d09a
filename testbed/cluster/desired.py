"""Turns (settings, topology, binaries) into the processes a running cluster consists of. Pure; plan.py compares.

The flags say why they are there when it is not obvious; configuration files come from configs.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from testbed.cluster import flannel, kuberouter, layout
from testbed.cluster.units import Http, Inputs, Socket, Unit
from testbed.topology import Node


def units(inputs: Inputs) -> tuple[Unit, ...]:
    """All units of the cluster, in an order in which they can be started."""
    on_nodes = [unit for node in inputs.topology.nodes for unit in _node(inputs, node)]
    if flannel.chosen(inputs.settings):
        on_nodes += [kind.unit(inputs, node) for kind in (flannel, kuberouter) for node in inputs.topology.nodes]
    return (
        _etcd(inputs),
        _apiserver(inputs),
        _controller_manager(inputs),
        _scheduler(inputs),
        *on_nodes,
        *_addons(inputs),
    )


def _etcd(inputs: Inputs) -> Unit:
    client, peer = layout.etcd_port(inputs.settings), layout.etcd_port(inputs.settings) + 1
    url = f"http://127.0.0.1:{client}"
    argv = (
        inputs.host("etcd"),
        f"--data-dir={inputs.settings.data}/etcd",
        "--unsafe-no-fsync",  # losing the last second in a power cut is fine here, waiting for the disk is not
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--log-level=warn",
    )
    return Unit("etcd", argv, Http(f"{url}/readyz"))


def _apiserver(inputs: Inputs) -> Unit:
    pki, port = inputs.settings.pki, layout.api_port(inputs.settings)
    argv = (
        inputs.host("kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port(inputs.settings)}",
        f"--secure-port={port}",
        f"--advertise-address={inputs.topology.gateway}",
        f"--service-cluster-ip-range={','.join(inputs.topology.service_cidrs)}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/sa.key",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        # Extension API servers (metrics) and webhooks: the host has routes to pods, but no kube-proxy.
        "--enable-aggregator-routing",
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
    )
    return Unit("kube-apiserver", argv, Http(f"https://127.0.0.1:{port}/readyz"), after=("etcd",))


def _controller_manager(inputs: Inputs) -> Unit:
    pki, port = inputs.settings.pki, layout.port(inputs.settings, 10257)
    argv = (
        inputs.host("kube-controller-manager"),
        f"--kubeconfig={pki}/controller-manager.kubeconfig",
        f"--authentication-kubeconfig={pki}/controller-manager.kubeconfig",
        f"--authorization-kubeconfig={pki}/controller-manager.kubeconfig",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        f"--service-account-private-key-file={pki}/sa.key",
        f"--root-ca-file={pki}/ca.crt",
        "--use-service-account-credentials",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--leader-elect=false",
    )
    return Unit("kube-controller-manager", argv, Http(f"https://127.0.0.1:{port}/healthz"), after=("kube-apiserver",))


def _scheduler(inputs: Inputs) -> Unit:
    pki, port = inputs.settings.pki, layout.port(inputs.settings, 10259)
    argv = (
        inputs.host("kube-scheduler"),
        f"--kubeconfig={pki}/scheduler.kubeconfig",
        f"--authentication-kubeconfig={pki}/scheduler.kubeconfig",
        f"--authorization-kubeconfig={pki}/scheduler.kubeconfig",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )
    return Unit("kube-scheduler", argv, Http(f"https://127.0.0.1:{port}/healthz"), after=("kube-apiserver",))


def _node(inputs: Inputs, node: Node) -> tuple[Unit, ...]:
    files = layout.NODE_FILES
    folder = str(Path(inputs.node("containerd")).parent)
    path = f"{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    socket = inputs.settings.state / "nodes" / node.name / "run" / "containerd" / "containerd.sock"
    labels = ",".join(f"{key}={value}" for key, value in node.labels)
    kubelet = (
        inputs.node("kubelet"),
        f"--config={files}/kubelet.yaml",
        f"--kubeconfig={files}/kubelet.kubeconfig",
        f"--hostname-override={node.name}",
        f"--node-ip={','.join(node.addresses)}",
        "--root-dir=/var/lib/kubelet",
        *((f"--node-labels={labels}",) if labels else ()),
        "--v=2",
    )
    return (
        Unit(
            f"containerd@{node.name}",
            (inputs.node("containerd"), "--config", f"{files}/containerd.toml"),
            Socket(socket),
            node.name,
            configuration=inputs.texts[f"containerd@{node.name}"],
            environment=(("PATH", path),),
        ),
        Unit(
            f"kubelet@{node.name}",
            kubelet,
            Http(f"http://{node.address}:10248/healthz"),
            node.name,
            after=("kube-apiserver", f"containerd@{node.name}"),
            configuration=inputs.texts[f"kubelet@{node.name}"],
        ),
        Unit(
            f"kube-proxy@{node.name}",
            (inputs.node("kube-proxy"), f"--config={files}/kube-proxy.yaml"),
            Http(f"http://{node.address}:10256/livez"),
            node.name,
            after=("kube-apiserver",),
            configuration=inputs.texts[f"kube-proxy@{node.name}"],
        ),
    )


def _addons(inputs: Inputs) -> tuple[Unit, ...]:
    """The cluster's services: they run on the host, so no image has to be made for them."""
    return (_provisioner(inputs), _dns(inputs), _metrics(inputs), _policy(inputs))


def _provisioner(inputs: Inputs) -> Unit:
    port = layout.port(inputs.settings, 10290)
    argv = (
        inputs.host("provisioner"),
        f"--kubeconfig={inputs.settings.pki}/addons.kubeconfig",
        f"--nodes={inputs.settings.data}/nodes",
        f"--folder={layout.NODE_VOLUMES}",
        f"--health=127.0.0.1:{port}",
    )
    return Unit("provisioner", argv, Http(f"http://127.0.0.1:{port}/healthz"), after=("kube-apiserver",))


def _dns(inputs: Inputs) -> Unit:
    argv = (inputs.host("dns"), "-conf", str(inputs.settings.data / "Corefile"))
    probe = Http(f"http://127.0.0.1:{layout.port(inputs.settings, 10291)}/health")
    return Unit("dns", argv, probe, after=("kube-apiserver",), configuration=inputs.texts["dns"])


def _metrics(inputs: Inputs) -> Unit:
    pki, address, port = inputs.settings.pki, inputs.topology.gateway, layout.metrics_port(inputs.settings)
    argv = (
        inputs.host("metrics-server"),
        f"--kubeconfig={pki}/addons.kubeconfig",
        f"--authentication-kubeconfig={pki}/addons.kubeconfig",
        f"--authorization-kubeconfig={pki}/addons.kubeconfig",
        f"--bind-address={address}",
        f"--secure-port={port}",
        f"--tls-cert-file={pki}/addons.crt",
        f"--tls-private-key-file={pki}/addons.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--metric-resolution=10s",
        "--kubelet-request-timeout=5s",
    )
    return Unit("metrics-server", argv, Http(f"https://{address}:{port}/livez"), after=("kube-apiserver",))


def _policy(inputs: Inputs) -> Unit:
    """Our own small engine for NetworkPolicies; its source is its configuration. With the second pod network IPv4 is
    another's: kuberouter.py."""
    settings, port = inputs.settings, layout.port(inputs.settings, 10293)
    families = "ip6" if flannel.chosen(settings) else "ip,ip6"
    argv = (sys.executable, "-m", "testbed.policy", str(port), families, *(node.name for node in inputs.topology.nodes))
    environment = (
        ("PYTHONPATH", str(settings.repository)),
        ("BERTH_TESTBED_INDEX", str(settings.index)),
        ("BERTH_STATE", str(settings.state)),
        ("BERTH_DATA", str(settings.data)),
    )
    probe = Http(f"http://127.0.0.1:{port}/healthz")
    return Unit("policy", argv, probe, None, ("kube-apiserver",), inputs.texts["policy"], environment)
