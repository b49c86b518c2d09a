"""Models of the devices and sources in a VirtualMachine's spec: boot, disks, NICs, cloud-init, display."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

from pydantic import Field

from berth.api.base import Model, NextBoot, Rule, exactly_one
from berth.api.quantity import Quantity

MOST_DISKS = 24
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
        None, ge=1, le=MOST_DISKS, description="1 is tried first. Default: the order of the list."
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


class NicModel(enum.StrEnum):
    VIRTIO = "virtio"
    E1000E = "e1000e"


class Nic(Model):
    """One network interface."""

    name: Annotated[DeviceName, NextBoot] = Field(description="Its name.")
    pod: PodNetwork | None = Field(None, description="On the pod network.")
    model: Annotated[NicModel, NextBoot] = Field(NicModel.VIRTIO, description="The card the guest sees.")
    mac: Annotated[str | None, NextBoot] = Field(
        None,
        max_length=17,
        pattern=r"^[0-9a-f][26ae](:[0-9a-f]{2}){5}$",
        description="A locally administered unicast MAC address. Default: one that stays for the machine's life.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("give the network: pod: {}", "has(self.pod)", lambda nic: nic.pod is not None),
    )


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
