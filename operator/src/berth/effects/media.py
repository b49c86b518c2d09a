"""Everything of one machine that lies on files: its orders in, fixed paths beneath /run/berth/vms/UID out.

Called by the agent before a machine starts, and again after it was itself restarted: what is there is kept.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from berth.api.order import CloudInitOrder, DiskOrder, FileOrder, KernelOrder
from berth.domain.files import DiskFile, MediaFiles
from berth.effects import berths, disks, marks, mounts, paths, seed
from berth.effects.folders import MachineFolders
from berth.effects.ports import Berth
from berth.errors import HostFault

RUN_FOLDER = "run/berth"


@dataclass(frozen=True, slots=True)
class NodeMedia:
    """Media on the node's file systems."""

    machines: MachineFolders = field(default_factory=MachineFolders)

    def prepare(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        *,
        disks: Sequence[DiskOrder],
        kernel: KernelOrder | None,
        cloud_init: CloudInitOrder | None,
        vnc: bool,
        arriving: bool = False,
    ) -> MediaFiles:
        with (
            paths.closing(berths.open_root(berth)) as root,
            paths.closing(berths.open_namespace(berth, "mnt")) as mntns,
        ):
            return _prepare(
                _bench(root, mntns, self.machines.make(vm_uid, guest_uid), guest_uid, arriving=arriving),
                berth,
                disks,
                kernel,
                cloud_init,
                vnc=vnc,
            )

    def mark(self, berth: Berth, folder: str, name: str) -> None:
        marks.make(berth, folder, name)

    def is_marked(self, berth: Berth, folder: str, name: str) -> bool:
        return marks.found(berth, folder, name)

    def unmark(self, berth: Berth, folder: str, name: str) -> None:
        marks.remove(berth, folder, name)

    def fit(self, guest_uid: int, file: DiskFile, size_bytes: int) -> None:
        disks.fit(guest_uid, file, size_bytes)


def _bench(root: int, mntns: int, folder: Path, guest_uid: int, *, arriving: bool) -> disks.Workbench:
    return disks.Workbench(root, mntns, folder, guest_uid, arriving)


def _prepare(
    bench: disks.Workbench,
    berth: Berth,
    orders: Sequence[DiskOrder],
    kernel: KernelOrder | None,
    cloud_init: CloudInitOrder | None,
    *,
    vnc: bool,
) -> MediaFiles:
    return MediaFiles(
        disks=tuple(disks.prepare(bench, order) for order in orders),
        console_socket=_console(bench),
        kernel=_boot_file(bench, kernel.kernel, "kernel") if kernel else None,
        initrd=_boot_file(bench, kernel.initrd, "initrd") if kernel and kernel.initrd else None,
        seed=_seed(bench, cloud_init) if cloud_init else None,
        vnc_socket=_vnc(bench, berth) if vnc else None,
    )


def _console(bench: disks.Workbench) -> str:
    with paths.closing(paths.open_kind(bench.root, f"{RUN_FOLDER}/console.sock", stat.S_IFSOCK)) as socket:
        return bench.show(socket, "console.sock")


def _boot_file(bench: disks.Workbench, file: FileOrder, name: str) -> str:
    try:
        with paths.closing(bench.open_file(file)) as found:
            disks.must_be_readable(found, file.path)
            return bench.show(found, name)
    except HostFault as error:
        reason = "KernelMissing" if isinstance(error, paths.PathMissing) else error.reason
        raise HostFault(f"boot.kernel: {name}: {error}", reason=reason) from error


def _seed(bench: disks.Workbench, order: CloudInitOrder) -> str:
    def make(fd: int) -> None:
        network = order.network_data.encode() if order.network_data is not None else None
        image = seed.build(order.instance_id, order.hostname, _user_data(bench, order), network)
        with open(os.dup(fd), "wb") as file:
            file.write(image)

    with paths.closing(bench.open_state("cloud-init.iso", make)) as found:
        return bench.show(found, "seed.iso")


def _user_data(bench: disks.Workbench, order: CloudInitOrder) -> bytes:
    """Documents in Secrets reach the berth as projected files, which are links within their folder."""
    file = order.user_data_file
    if file is None:
        return (order.user_data or "#cloud-config\n").encode()
    try:
        with paths.closing(paths.open_kind(bench.root, file.folder, stat.S_IFDIR)) as folder:
            return paths.read_regular(folder, file.path, seed.LIMIT_BYTES, symlinks=True)
    except HostFault as error:
        raise HostFault(f"cloudInit: user data: {error}", reason="CloudInitInvalid") from error


def _vnc(bench: disks.Workbench, berth: Berth) -> str:
    """A folder of the machine's own in the berth. Its set-group bit hands the socket that QEMU makes to the berth's
    group, and libvirt's umask leaves that group its write permission, which connecting takes."""
    facts = berths.facts_of(berth.pid)
    if facts is None:
        raise berths.BerthGone(f"the berth process of pod {berth.pod_uid} is gone")
    with paths.closing(paths.open_kind(bench.root, RUN_FOLDER, stat.S_IFDIR)) as run:
        with contextlib.suppress(FileExistsError):
            os.mkdir("vnc", 0o700, dir_fd=run)
        with paths.closing(paths.open_kind(run, "vnc", stat.S_IFDIR)) as place:
            with paths.closing(paths.reopen(place, os.O_RDONLY | os.O_DIRECTORY)) as folder:
                os.fchown(folder, bench.guest_uid, facts.gid)
                os.fchmod(folder, 0o2750)
            mounts.bind(bench.mntns, place, bench.folder / "vnc")
    return str(bench.folder / "vnc" / "vnc.sock")
