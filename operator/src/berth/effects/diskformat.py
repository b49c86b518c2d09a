"""What a disk image file is, told from its first bytes: bytes in, a verdict out. Called by qemuimg.py; opens nothing.

Images are hostile input: a qcow2 file may name other files of the node as its backing or data file, and QEMU would open
them. So the header is read here, before any of QEMU's code sees the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 64 * 1024
_QCOW2 = struct.Struct(">4sIQIIQI")  # magic, version, backing offset, backing size, cluster bits, size, crypt method
_INCOMPATIBLE_AT, _DATA_FILE_BIT = 72, 1 << 2

# What people put where a disk belongs, and what to do about it.
_UNPACK = "unpack it"
_CONVERT = "convert it with `qemu-img convert -O qcow2`"
_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip file", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (0, b"BZh", "a bzip2 file", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (0, b"PK\x03\x04", "a zip file", _UNPACK),
    (257, b"ustar", "a tar archive (an OVA, perhaps)", _UNPACK),
    (0, b"KDMV", "a VMDK image", _CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor", _CONVERT),
    (0, b"vhdxfile", "a VHDX image", _CONVERT),
    (0, b"conectix", "a VHD image", _CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", _CONVERT),
    (0, b"QED\0", "a QED image", _CONVERT),
    (0, b"LUKS\xba\xbe", "a LUKS volume", "give the decrypted image"),
    (0, b"\x7fELF", "a program", "name the disk image's path"),
    (0, b"<!DOCTYPE", "a web page", "a download went wrong: fetch the image again"),
    (0, b"<html", "a web page", "a download went wrong: fetch the image again"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file it points to"),
)


@dataclass(frozen=True, slots=True)
class Qcow2:
    """A qcow2 header that names no other file."""

    virtual_size: int


@dataclass(frozen=True, slots=True)
class Raw:
    """Any bytes: a raw image is what no other format's sign is on."""


@dataclass(frozen=True, slots=True)
class Unsuitable:
    """No image that Berth runs; ``reason`` is ImageCorrupt or ImageUnsafe."""

    reason: str
    what: str


Verdict = Qcow2 | Raw | Unsuitable


def inspect(header: bytes, file_size: int) -> Verdict:
    """Judge a file by its first HEADER_BYTES."""
    if header.startswith(b"QFI\xfb"):
        return _inspect_qcow2(header)
    for offset, sign, what, advice in _OTHERS:
        if header[offset : offset + len(sign)] == sign:
            return Unsuitable("ImageCorrupt", f"is {what}, not a qcow2 or raw disk image; {advice}")
    if file_size < 512:
        return Unsuitable("ImageCorrupt", f"has {file_size} bytes: not an image of a disk")
    if file_size % 512:
        return Unsuitable(
            "ImageCorrupt", f"has {file_size} bytes, not whole sectors of 512: not a qcow2 or raw disk image"
        )
    return Raw()


def _inspect_qcow2(header: bytes) -> Verdict:
    if len(header) < 104:
        return Unsuitable("ImageCorrupt", "is a qcow2 image cut off within its header")
    _, version, backing_offset, backing_size, cluster_bits, size, crypt = _QCOW2.unpack_from(header)
    if version not in (2, 3):
        return Unsuitable("ImageCorrupt", f"is qcow2 version {version}; versions 2 and 3 are known")
    if not 9 <= cluster_bits <= 21:
        return Unsuitable("ImageCorrupt", f"is a damaged qcow2 image (cluster bits {cluster_bits})")
    if backing_offset or backing_size:
        return Unsuitable("ImageUnsafe", "names a backing file; flatten it with `qemu-img convert -O qcow2`")
    if crypt:
        return Unsuitable("ImageUnsafe", "is encrypted; give the decrypted image")
    if version == 3 and struct.unpack_from(">Q", header, _INCOMPATIBLE_AT)[0] & _DATA_FILE_BIT:
        return Unsuitable("ImageUnsafe", "keeps its data in another file; convert it with `qemu-img convert -O qcow2`")
    if not size or size > 1 << 56:
        return Unsuitable("ImageCorrupt", f"is a damaged qcow2 image (a disk of {size} bytes)")
    return Qcow2(size)
