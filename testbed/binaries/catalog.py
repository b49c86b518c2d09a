"""The pinned versions of every program, and each one's three sources: the machine, a download, a Go module.

Pure values. A release is what is published, downloaded, built and cached together; its tools are the programs in it.
Changing a version here means changing testbed/go/<release>/go.mod too; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KUBERNETES = "1.36.3"
# The newest Go that any module here asks for; go.sum pins the modules, this pins the compiler.
GO = "1.26.8"
# Directory hashes (the form go.sum uses) of golang.org/toolchain@v0.0.1-go<GO>.linux-<arch>.
GO_TOOLCHAIN = {
    "amd64": "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=",
    "arm64": "h1:sYL/O6MqS68ML0kjsQ36WoYIpJqkw60TxizWUYUKQMc=",
}


@dataclass(frozen=True, slots=True)
class Download:
    """One official file: a plain program or a tar archive. The vendor publishes its SHA-256 next to it.

    The checksum is fetched from the vendor over https and not pinned here: it proves that the file arrived whole and
    that both came from the vendor's site. The build from Go modules is the source whose checksums are pinned (go.sum).
    """

    url: str
    checksum_url: str
    members: Mapping[str, str] | None = None  # tool -> path in the archive; None: the file is the program


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: the package to build, and how an installed one tells its version."""

    name: str
    package: str
    version_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """Programs of one version."""

    name: str
    version: str
    tools: tuple[Tool, ...]
    download: str = ""  # a template with {tool}, {version} and {arch}
    checksum: str = ""
    member: str = ""  # a template: where a tool lies in the archive; empty when the download is the program itself
    linker_flags: tuple[str, ...] = ()
    optional: bool = False  # only what asks for it has it made
    cgo: bool = False  # parts of it are C
    ours: bool = False  # its source lies in testbed/go: the cache key follows the source

    def tool(self, name: str) -> Tool:
        return next(tool for tool in self.tools if tool.name == name)

    def downloads(self, arch: str) -> tuple[tuple[tuple[Tool, ...], Download], ...]:
        """Which files to fetch, and which tools each gives."""
        if not self.download:
            return ()

        def filled(template: str, tool: Tool) -> str:
            return template.format(tool=tool.name, version=self.version, arch=arch)

        if not self.member:
            return tuple(
                ((tool,), Download(filled(self.download, tool), filled(self.checksum, tool))) for tool in self.tools
            )
        first = self.tools[0]
        members = {tool.name: filled(self.member, tool) for tool in self.tools}
        return ((self.tools, Download(filled(self.download, first), filled(self.checksum, first), members)),)


def _kubernetes(name: str, *version_arguments: str) -> Tool:
    return Tool(name, f"k8s.io/kubernetes/cmd/{name}", version_arguments or ("--version",))


RELEASES: tuple[Release, ...] = (
    Release(
        "kubernetes",
        KUBERNETES,
        (
            _kubernetes("kube-apiserver"),
            _kubernetes("kube-controller-manager"),
            _kubernetes("kube-scheduler"),
            _kubernetes("kubelet"),
            _kubernetes("kube-proxy"),
            _kubernetes("kubectl", "version", "--client"),
        ),
        download="https://dl.k8s.io/release/v{version}/bin/linux/{arch}/{tool}",
        checksum="https://dl.k8s.io/release/v{version}/bin/linux/{arch}/{tool}.sha256",
        linker_flags=(
            f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES}",
            f"-X k8s.io/component-base/version.gitMajor={KUBERNETES.split('.')[0]}",
            f"-X k8s.io/component-base/version.gitMinor={KUBERNETES.split('.')[1]}",
            f"-X k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES}",
        ),
    ),
    Release(
        "etcd",
        "3.6.16",
        (Tool("etcd", "go.etcd.io/etcd/server/v3", ("--version",)),),
        download="https://github.com/etcd-io/etcd/releases/download/v{version}/etcd-v{version}-linux-{arch}.tar.gz",
        checksum="https://github.com/etcd-io/etcd/releases/download/v{version}/SHA256SUMS",
        member="etcd-v{version}-linux-{arch}/{tool}",
    ),
    Release(
        "containerd",
        "2.3.7",
        (
            Tool("containerd", "github.com/containerd/containerd/v2/cmd/containerd", ("--version",)),
            Tool("ctr", "github.com/containerd/containerd/v2/cmd/ctr", ("--version",)),
            Tool("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", ("-v",)),
        ),
        download="https://github.com/containerd/containerd/releases/download/v{version}/containerd-{version}-linux-{arch}.tar.gz",
        checksum="https://github.com/containerd/containerd/releases/download/v{version}/containerd-{version}-linux-{arch}.tar.gz.sha256sum",
        member="bin/{tool}",
        linker_flags=("-X github.com/containerd/containerd/v2/version.Version=v2.3.7",),
    ),
    Release(
        "helm",
        "3.22.0",
        (Tool("helm", "helm.sh/helm/v3/cmd/helm", ("version", "--short")),),
        download="https://get.helm.sh/helm-v{version}-linux-{arch}.tar.gz",
        checksum="https://get.helm.sh/helm-v{version}-linux-{arch}.tar.gz.sha256sum",
        member="linux-{arch}/{tool}",
        linker_flags=(
            "-X helm.sh/helm/v3/internal/version.version=v3.22.0",
            # helm renders charts for the newest Kubernetes it knows; the default of an unset build is 1.20.
            f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor={KUBERNETES.split('.')[0]}",
            f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={KUBERNETES.split('.')[1]}",
        ),
    ),
    Release(
        "kind",
        "0.33.0",
        (Tool("kind", "sigs.k8s.io/kind", ("version",)),),
        download="https://github.com/kubernetes-sigs/kind/releases/download/v{version}/kind-linux-{arch}",
        checksum="https://github.com/kubernetes-sigs/kind/releases/download/v{version}/kind-linux-{arch}.sha256sum",
    ),
    # The cluster's own services: small programs of ours around published libraries.
    Release("provisioner", "1", (Tool("provisioner", "testbed/provisioner"),), ours=True),
    Release("dns", "1", (Tool("dns", "testbed/dns"),), ours=True),
    Release("attach", "1", (Tool("attach", "testbed/attach"),), ours=True),
    # One more pod network to try guests on.
    Release(
        "flannel",
        "0.28.7",
        (Tool("flannel", "github.com/flannel-io/flannel"),),
        linker_flags=("-X github.com/flannel-io/flannel/pkg/version.Version=v0.28.7",),
        optional=True,
        cgo=True,
    ),
    # And another engine for NetworkPolicies: the newest that its module's tags have.
    Release(
        "kube-router",
        "2.1.0",
        (Tool("kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", ("--version",)),),
        linker_flags=("-X github.com/cloudnativelabs/kube-router/v2/pkg/version.Version=v2.1.0",),
        optional=True,
    ),
    Release(
        "metrics-server",
        "0.9.0",
        (Tool("metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server", ("--version",)),),
    ),
)


def release(name: str) -> Release:
    """One release by its name."""
    return next(release for release in RELEASES if release.name == name)
