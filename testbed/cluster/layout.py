"""Names and places that several parts of the built-in cluster must agree on. Pure values, no I/O."""

from __future__ import annotations

from pathlib import Path

from testbed.settings import Settings

# Inside a node's own mount namespace: its configuration, certificates and the testbed's binaries.
NODE_FILES = Path("/var/lib/testbed")
NODE_BINARIES = NODE_FILES / "bin"
NODE_PLUGINS = NODE_FILES / "cni-bin"
NODE_VOLUMES = Path("/var/lib/testbed-volumes")
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")

PAUSE_IMAGE = "localhost/berth-testbed/pause:1"
# The beginning of every testbed's cgroup.
CGROUP = "berth-testbed"
CNI_PLUGINS = Path("/usr/lib/cni")

# Directories that a node owns alone and shares with its pods' mount namespaces.
NODE_STATE = ("/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/lib/berth", "/var/log/pods",
              "/var/log/containers", str(NODE_FILES), str(NODE_BINARIES), str(NODE_VOLUMES))  # fmt: skip
NODE_RUN = ("/run/containerd", "/run/berth", "/run/netns", "/run/lock")


def bridge(settings: Settings) -> str:
    """The bridge between the host and the nodes."""
    return f"berth-tb{settings.index}"


def cable(settings: Settings, ordinal: int) -> str:
    """The host's end of a node's virtual cable."""
    return f"berth-tb{settings.index}n{ordinal}"


def cgroup(settings: Settings) -> str:
    """The cgroup under which everything of this testbed runs, in every hierarchy."""
    return f"{CGROUP}{settings.suffix}"


def port(settings: Settings, usual: int) -> int:
    """A host port; each further testbed is moved by 100."""
    return usual + 100 * settings.index


def api_port(settings: Settings) -> int:
    return port(settings, 6443)


def etcd_port(settings: Settings) -> int:
    return port(settings, 2379)


def dns_port(settings: Settings) -> int:
    return port(settings, 10053)


def metrics_port(settings: Settings) -> int:
    return port(settings, 10292)


def files_of(settings: Settings, node: str) -> Path:
    """NODE_FILES of one node, as seen from the host."""
    return settings.node_root(node) / NODE_FILES.relative_to("/")


def pause_note(settings: Settings, node: str) -> Path:
    """Exists once the node's containerd has the pause image; it lies on the same disk and lives as long."""
    return files_of(settings, node) / "loaded" / PAUSE_IMAGE.replace("/", "-")
