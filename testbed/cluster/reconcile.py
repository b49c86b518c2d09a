"""Brings the built-in cluster up: gather → desire → plan → apply. Called by cli.py; safe to run again at any moment."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed import files, policy
from testbed.binaries import ensure
from testbed.cluster import (
    apply,
    configs,
    current,
    desired,
    flannel,
    host,
    layout,
    network,
    nodes,
    pki,
    plan,
    processes,
    ready,
    units,
)
from testbed.progress import Progress
from testbed.settings import Settings
from testbed.topology import Node, Topology

LOCK_SECONDS = 300.0
RELEASES = ("etcd", "containerd", "kubernetes", "provisioner", "dns", "metrics-server", "attach", "helm")


def up(settings: Settings, topology: Topology, progress: Progress) -> None:
    """One level-based run."""
    with locked(settings):
        flannel.keep(settings)
        optional = ("flannel", "kube-router") if flannel.chosen(settings) else ()
        binaries = ensure.ensure(settings, progress, (*RELEASES, *optional))
        host.remember()
        pki.ensure(settings.pki, pki.identities(topology))
        texts = write_configuration(settings, topology)
        link_plugins(settings, topology, binaries["attach"])
        wanted = desired.units(units.Inputs(settings, topology, binaries, texts))
        steps = plan.plan(wanted, topology.nodes, current.gather(settings, topology))
        apply.apply(machine(settings, topology, binaries, progress), steps)


def restart(settings: Settings, topology: Topology, progress: Progress, names: Sequence[str]) -> None:
    """End the named units at once (as a crash would) and let `up` start them again."""
    with locked(settings):
        for name in names:
            processes.kill(settings, name)
    up(settings, topology, progress)


def lose(settings: Settings, node: Node, progress: Progress) -> None:
    """End all that runs on a node at once, without a word to anybody, and take it off the network."""
    with locked(settings), progress.task(f"lose {node.name}"):
        apply.end(settings, node)
        nodes.remove(settings, node.name)
        network.remove_node(settings, node.name, node.ordinal)


def machine(settings: Settings, topology: Topology, binaries: Mapping[str, Path], progress: Progress) -> apply.Machine:
    ctr = layout.NODE_BINARIES / binaries["ctr"].relative_to(settings.cache / "bin")
    return apply.Machine(settings, topology, str(ctr), progress)


def write_configuration(settings: Settings, topology: Topology) -> dict[str, str]:
    """Write every configuration file; returns the texts that processes depend on, by unit."""
    mode = network.proxy_mode()
    texts: dict[str, str] = {}
    for node in topology.nodes:
        folder = layout.files_of(settings, node.name)
        kubelet = configs.kubelet(node, topology, f"/{layout.cgroup(settings)}/{node.name}")
        proxy = configs.kube_proxy(node, topology, mode)
        for name, text in (
            ("kubelet.yaml", kubelet),
            ("kube-proxy.yaml", proxy),
            ("containerd.toml", configs.containerd()),
        ):
            files.write_if_changed(folder / name, text)
        files.write_if_changed(folder / "cni" / "10-testbed.conflist", _network(settings, node, topology))
        files.write_if_changed(folder / layout.NODE_PLUGINS.name / "no-dad", configs.NO_DAD, mode=0o755)
        for source, target in (
            ("ca.crt", "ca.crt"),
            (f"{node.name}.crt", "kubelet.crt"),
            (f"{node.name}.key", "kubelet.key"),
            ("attach.crt", "attach.crt"),
            ("attach.key", "attach.key"),
        ):
            files.write_if_changed(folder / target, (settings.pki / source).read_text(), mode=0o600)
        _kubeconfig(settings, topology.gateway, node.name, folder / "kubelet.kubeconfig")
        _kubeconfig(settings, topology.gateway, "proxy", folder / "kube-proxy.kubeconfig")
        texts |= {
            f"kubelet@{node.name}": kubelet,
            f"kube-proxy@{node.name}": proxy,
            f"containerd@{node.name}": configs.containerd(),
        }
    for name in ("controller-manager", "scheduler", "addons"):
        _kubeconfig(settings, "127.0.0.1", name, settings.pki / f"{name}.kubeconfig")
    _kubeconfig(settings, "127.0.0.1", "admin", settings.kubeconfig)
    health = layout.port(settings, 10291)
    texts["dns"] = configs.corefile(topology, f"{settings.pki}/addons.kubeconfig", layout.dns_port(settings), health)
    files.write_if_changed(settings.data / "Corefile", texts["dns"])
    texts["policy"] = "".join(path.read_text() for path in sorted(Path(policy.__file__).parent.glob("*.py")))
    return texts


def _network(settings: Settings, node: Node, topology: Topology) -> str:
    """The node's CNI chain; flannel's also needs its own configuration, and one who may write nodes' annotations."""
    if not flannel.chosen(settings):
        return configs.network(node, configs.routed(node), topology, layout.api_port(settings))
    folder = layout.files_of(settings, node.name)
    files.write_if_changed(folder / "flannel.json", flannel.configuration(topology))
    _kubeconfig(settings, topology.gateway, "addons", folder / "flannel.kubeconfig")
    return configs.network(node, flannel.bridged(node), topology, layout.api_port(settings))


def link_plugins(settings: Settings, topology: Topology, attach: Path) -> None:
    """Our own CNI plugin under its name; the link's target is where the node sees the program."""
    target = layout.NODE_BINARIES / attach.relative_to(settings.cache / "bin")
    for node in topology.nodes:
        link = layout.files_of(settings, node.name) / layout.NODE_PLUGINS.name / "attach"
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def _kubeconfig(settings: Settings, address: str, who: str, target: Path) -> None:
    authority, certificate, key = (settings.pki / name for name in ("ca.crt", f"{who}.crt", f"{who}.key"))
    server = f"https://{address}:{layout.api_port(settings)}"
    text = configs.kubeconfig(server, authority.read_bytes(), certificate.read_bytes(), key.read_bytes())
    files.write_if_changed(target, text, mode=0o600)


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """One change at a time; others wait their turn. The lock ends with its process, whatever way it ends."""
    file, held = settings.state / "lock", list[int]()
    advice = f"another `python -m testbed` works on {settings.state}; see `fuser {file}`"
    try:
        ready.until(lambda: _take(file, held), LOCK_SECONDS, lambda: advice)
        yield
    finally:
        for handle in held:
            os.close(handle)


def _take(file: Path, held: list[int]) -> bool:
    """The file goes when `down` ends: a lock on what is no longer there protects nothing, so it is looked for again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino == file.stat().st_ino:
            held.append(handle)
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return False
