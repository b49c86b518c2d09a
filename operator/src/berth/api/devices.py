"""Models of the devices and sources in a VirtualMachine's spec: boot, disks, NICs, cloud-init, display."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

from pydantic import Field

from berth.api.addresses import IpAddress, family
from berth.api.base import Live, Model, NextBoot, Rule, exactly_one
from berth.api.quantity import Burst, Quantity, Rate

MOST_DISKS = 24
MOST_NICS = 8
DeviceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", max_length=32)]
"""Lower-case letters, digits and dashes, at most 32 characters (it becomes part of a volume's name)."""
ImageReference = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^\S+$")]
PathInVolume = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]
SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]


class PullPolicy(enum.StrEnum):
    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Kernel(Model):
    """A kernel in a container image, booted directly without firmware or boot loader."""

    image: Annotated[ImageReference, NextBoot] = Field(description="Container image that holds the kernel.")
    kernel_path: Annotated[PathInVolume, NextBoot] = Field(
        "/boot/vmlinuz", description="The kernel's path in the image."
    )
    initrd_path: Annotated[PathInVolume | None, NextBoot] = Field(
        None, description="The initial RAM disk's path in the image."
    )
    args: Annotated[str, NextBoot] = Field(
        "",
        max_length=2000,
        pattern=r"^[ -~]*$",
        description='Kernel arguments in plain ASCII, for example "console=ttyS0".',
    )
    pull_policy: Annotated[PullPolicy | None, NextBoot] = Field(
        None, description="When the image is pulled, as in a pod."
    )


class Boot(Model):
    """How the machine boots."""

    kernel: Kernel | None = Field(None, description="Boot this kernel directly.")


class ContainerSource(Model):
    """A disk image inside a container image: read-only beneath, changes last until the machine is stopped."""

    image: Annotated[ImageReference, NextBoot] = Field(description="Container image that holds the disk image.")
    path: Annotated[PathInVolume, NextBoot] = Field(
        "/disk/disk.qcow2", description="The disk image's path in it; qcow2 or raw."
    )
    pull_policy: Annotated[PullPolicy | None, NextBoot] = Field(
        None, description="When the image is pulled, as in a pod."
    )


class EmptySource(Model):
    """A new empty disk at every start of the machine; its content is gone when the machine is stopped."""


class ClaimSource(Model):
    """A disk image file on a PersistentVolumeClaim with a file system: it stays."""

    claim_name: Annotated[SecretName, NextBoot] = Field(description="The claim, in the machine's namespace.")
    path: Annotated[PathInVolume, NextBoot] = Field(
        "disk.img",
        description="The disk image's path in the volume; made as a raw image of disks[].size when it is not there.",
    )


class DiskBus(enum.StrEnum):
    VIRTIO = "virtio"
    SATA = "sata"


class Disk(Model):
    """One disk; exactly one source."""

    name: Annotated[DeviceName, NextBoot] = Field(
        description="Its name; also its serial number, seen in /dev/disk/by-id."
    )
    container: ContainerSource | None = Field(None, description="From a container image.")
    empty: EmptySource | None = Field(None, description="Empty at every start.")
    pvc: ClaimSource | None = Field(None, description="A file on a PersistentVolumeClaim.")
    size: Annotated[Quantity | None, NextBoot] = Field(
        None, description="Its size: required for an empty disk; a container or new pvc disk grows to it."
    )
    bus: Annotated[DiskBus, NextBoot] = Field(DiskBus.VIRTIO, description="The bus the guest sees it on.")
    read_only: Annotated[bool, NextBoot] = Field(
        False, description="Whether the guest may only read it; on the sata bus it is a CD-ROM."
    )
    boot_order: Annotated[int | None, NextBoot] = Field(
        None, ge=1, le=MOST_DISKS + MOST_NICS, description="1 is tried first. Default: the order of the list."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("container", "empty", "pvc"),
        Rule(
            "an empty disk needs a size, for example 10Gi",
            "!has(self.empty) || has(self.size)",
            lambda disk: disk.empty is None or disk.size is not None,
        ),
    )


class PodNetwork(Model):
    """The pod network: the guest has the pod's IP, every port of it, both ways."""


class NetworkSource(Model):
    """A Network: a layer 2 segment of its own, on which the machine keeps its addresses for life."""

    name: Annotated[SecretName, NextBoot] = Field(description="The Network's name.")
    namespace: Annotated[SecretName | None, NextBoot] = Field(
        None,
        max_length=63,
        description="The Network's namespace, when it is shared with this one. Default: the machine's own.",
    )
    addresses: Annotated[list[IpAddress], NextBoot] = Field(
        default_factory=list,
        max_length=2,
        description="Addresses to ask for, one of each family at most. Default: free ones of the Network's ranges.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "give at most one address of each family",
            "!has(self.addresses) || self.addresses.size() < 2 || !isIP(self.addresses[0]) || !isIP(self.addresses[1])"
            " || ip(self.addresses[0]).family() != ip(self.addresses[1]).family()",
            lambda source: len({family(text) for text in source.addresses}) == len(source.addresses),
            field="addresses",
        ),
    )


class MultusSource(Model):
    """An interface that Multus adds to the berth pod, bridged to the guest."""

    name: Annotated[SecretName, NextBoot] = Field(description="The NetworkAttachmentDefinition's name.")
    namespace: Annotated[SecretName | None, NextBoot] = Field(
        None, max_length=63, description="Its namespace. Default: the machine's own."
    )


class DeviceSource(Model):
    """A network card's virtual function (SR-IOV), handed to the guest whole."""

    resource: Annotated[str, NextBoot] = Field(
        max_length=253,
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        description='The device plugin\'s resource that stands for it, for example "example.com/sriov_net".',
    )


class NicModel(enum.StrEnum):
    VIRTIO = "virtio"
    E1000E = "e1000e"


class LinkState(enum.StrEnum):
    UP = "Up"
    DOWN = "Down"


class Limit(Model):
    """A limit of one direction."""

    rate: Annotated[Rate, Live] = Field(description='Bits in a second in the long run, for example "100M".')
    burst: Annotated[Burst | None, Live] = Field(
        None, description="Bytes that may go faster than that at once. Default: what 50 ms at the rate amount to."
    )


class Bandwidth(Model):
    """What the interface may carry."""

    inbound: Annotated[Limit | None, Live] = Field(None, description="To the guest.")
    outbound: Annotated[Limit | None, Live] = Field(None, description="From the guest.")


class Nic(Model):
    """One network interface; exactly one source."""

    name: Annotated[DeviceName, NextBoot] = Field(description="Its name.")
    pod: PodNetwork | None = Field(None, description="On the pod network; one interface of a machine at most.")
    network: NetworkSource | None = Field(
        None, description="On a Network. Such an interface may be added to a running machine and taken from it."
    )
    multus: MultusSource | None = Field(None, description="On a NetworkAttachmentDefinition of Multus.")
    device: DeviceSource | None = Field(None, description="A virtual function of the node's network card.")
    model: Annotated[NicModel, NextBoot] = Field(NicModel.VIRTIO, description="The card the guest sees.")
    mac: Annotated[str | None, NextBoot] = Field(
        None,
        max_length=17,
        pattern=r"^[0-9a-f][26ae](:[0-9a-f]{2}){5}$",
        description="A locally administered unicast MAC address. Default: one that stays for the machine's life.",
    )
    mtu: Annotated[int | None, NextBoot] = Field(
        None, ge=576, le=65535, description="The largest packet. Default, and limit: what the network carries."
    )
    queues: Annotated[int, NextBoot] = Field(
        1, ge=1, le=16, description="Pairs of queues, for guests with several CPUs; virtio only."
    )
    boot_order: Annotated[int | None, NextBoot] = Field(
        None, ge=1, le=MOST_DISKS + MOST_NICS, description="Boot from the network; 1 is tried first. Default: never."
    )
    link: Annotated[LinkState, Live] = Field(LinkState.UP, description="Whether the guest sees a cable.")
    bandwidth: Bandwidth = Field(default_factory=Bandwidth, description="Limits, changed on the running machine.")
    anti_spoofing: Annotated[bool, Live] = Field(
        True,
        description="Drop what the guest sends from other MAC or IP addresses than its own. Off only on a Network or"
        " Multus, for guests that route or bridge for others.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("pod", "network", "multus", "device"),
        Rule(
            "antiSpoofing cannot be switched off on the pod network",
            "!has(self.pod) || !has(self.antiSpoofing) || self.antiSpoofing",
            lambda nic: nic.pod is None or nic.anti_spoofing,
            field="antiSpoofing",
        ),
        Rule(
            "the cable of a virtual function cannot be pulled: link: Down needs another source than device",
            "!has(self.device) || !has(self.link) || self.link == 'Up'",
            lambda nic: nic.device is None or nic.link is LinkState.UP,
            field="link",
        ),
        Rule(
            "several queues need the virtio model",
            "!has(self.queues) || self.queues == 1 || !has(self.model) || self.model == 'virtio'",
            lambda nic: nic.queues == 1 or nic.model is NicModel.VIRTIO,
            field="queues",
        ),
    )

    @property
    def plugs_live(self) -> bool:
        """Whether it may come and go while the machine runs; other sources are part of the berth pod."""
        return self.network is not None


class KeyReference(Model):
    """A key in a Secret or ConfigMap of the machine's namespace."""

    name: Annotated[SecretName, NextBoot] = Field(description="The Secret's or ConfigMap's name.")
    key: Annotated[str, NextBoot] = Field(
        "userdata", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="The key in it."
    )


class CloudInitSource(Model):
    """Where a cloud-init document comes from; exactly one."""

    secret: KeyReference | None = Field(None, description="A Secret's key.")
    config_map: KeyReference | None = Field(None, description="A ConfigMap's key.")

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("secret", "configMap"),)


class CloudInit(Model):
    """cloud-init's documents, given to the guest on a NoCloud disk labelled CIDATA."""

    user_data: Annotated[str | None, NextBoot] = Field(
        None, max_length=65536, description='The user-data itself, for example "#cloud-config …".'
    )
    user_data_from: CloudInitSource | None = Field(None, description="The user-data, from a Secret or ConfigMap.")
    network_data: Annotated[str | None, NextBoot] = Field(
        None, max_length=65536, description="A network-config document."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "give only one of userData, userDataFrom",
            "!(has(self.userData) && has(self.userDataFrom))",
            lambda init: init.user_data is None or init.user_data_from is None,
        ),
    )


class DisplayType(enum.StrEnum):
    NONE = "None"
    VNC = "VNC"


class Display(Model):
    """Graphics."""

    type: Annotated[DisplayType, NextBoot] = Field(
        DisplayType.NONE,
        description="VNC gives the machine a graphics card and a VNC server for `berth vnc`. None: serial only.",
    )
