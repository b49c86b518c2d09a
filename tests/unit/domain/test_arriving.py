"""What another node's libvirt sends is the machine that was asked for, or is refused: a stolen node sends anything."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import pytest

from berth.domain import arriving, build, files, metadata, xml
from berth.domain.host import Accelerator, Host
from tests.golden.domain import cases as golden

CASES = [(name, order, host) for name, order, host in golden.cases()]


def asked(index: int = 0) -> str:
    _, order, host = CASES[index]
    taps = {nic.name: f"bt{n}" for n, nic in enumerate(order.machine.nics)}
    return xml.render(build.build(order, files.expected(order.uid, order.machine), taps, host))


@pytest.mark.parametrize("index", range(len(CASES)), ids=[name for name, _, _ in CASES])
def test_what_was_asked_for_is_taken(index: int) -> None:
    arriving.check(asked(index), asked(index))


def part(root: Element, path: str) -> Element:
    found = root.find(path)
    assert found is not None, path
    return found


def command_line(root: Element) -> None:
    line = SubElement(root, "{http://libvirt.org/schemas/domain/qemu/1.0}commandline")
    SubElement(line, "{http://libvirt.org/schemas/domain/qemu/1.0}arg", value="-chardev")


def disk(root: Element) -> None:
    made = SubElement(part(root, "devices"), "disk", type="file", device="disk")
    SubElement(made, "source", file="/etc/shadow")
    SubElement(made, "target", dev="vdz", bus="virtio")


def block(root: Element) -> None:
    made = SubElement(part(root, "devices"), "disk", type="block", device="lun")
    SubElement(made, "source", dev="/dev/sda")


def shared_folder(root: Element) -> None:
    made = SubElement(part(root, "devices"), "filesystem", type="mount")
    SubElement(made, "source", dir="/")
    SubElement(made, "target", dir="root")


def host_device(root: Element) -> None:
    made = SubElement(part(root, "devices"), "hostdev", mode="subsystem", type="pci", managed="yes")
    SubElement(SubElement(made, "source"), "address", domain="0", bus="1", slot="0", function="0")


def host_input(root: Element) -> None:
    SubElement(SubElement(part(root, "devices"), "input", type="evdev"), "source", dev="/dev/input/event0")


def serial_to_the_net(root: Element) -> None:
    made = SubElement(part(root, "devices"), "serial", type="tcp")
    SubElement(made, "source", mode="bind", host="0.0.0.0", service="23")


def bridge(root: Element) -> None:
    SubElement(SubElement(part(root, "devices"), "interface", type="bridge"), "source", bridge="br0")


def script(root: Element) -> None:
    SubElement(part(root, "devices/interface"), "script", path="/bin/sh")


def another_tap(root: Element) -> None:
    part(root, "devices/interface/target").set("dev", "eth0")


def open_screen(root: Element) -> None:
    SubElement(part(root, "devices"), "graphics", type="vnc", listen="0.0.0.0", port="5900")


def nobodys_label(root: Element) -> None:
    root.remove(part(root, "seclabel"))


def roots_label(root: Element) -> None:
    part(root, "seclabel/label").text = "+0:+0"


def no_label(root: Element) -> None:
    part(root, "seclabel").set("relabel", "no")


def more_labels(root: Element) -> None:
    SubElement(root, "seclabel", type="none", model="dac")


def emulator(root: Element) -> None:
    part(root, "devices/emulator").text = "/bin/sh"


def firmware(root: Element) -> None:
    SubElement(part(root, "os"), "nvram", template="/etc/shadow")


def kernel(root: Element) -> None:
    SubElement(part(root, "os"), "kernel").text = "/etc/shadow"


def memory_file(root: Element) -> None:
    SubElement(SubElement(root, "memoryBacking"), "source", type="file")


def another_machine(root: Element) -> None:
    part(root, "uuid").text = "00000000-0000-4000-8000-000000000000"


def more_memory(root: Element) -> None:
    part(root, "memory").text = str(1 << 50)


def another_order(root: Element) -> None:
    part(root, f"metadata/{metadata.TAG}").text = "{}"


def another_board(root: Element) -> None:
    part(root, "os/type").set("machine", "pc-q35-2.4")


def another_type(root: Element) -> None:
    root.set("type", "xen")


HOSTILE: list[Callable[[Element], None]] = [
    command_line, disk, block, shared_folder, host_device, host_input, serial_to_the_net, bridge, script, another_tap,
    open_screen, nobodys_label, roots_label, no_label, more_labels, emulator, firmware, kernel, memory_file,
    another_machine, more_memory, another_order, another_type, another_board,
]  # fmt: skip


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__)
def test_whatever_else_reaches_out_is_refused(harm: Callable[[Element], None]) -> None:
    with_nic = next(
        i
        for i, (_, order, host) in enumerate(CASES)
        if order.machine.nics and not host.functions and not order.machine.vnc
    )
    text = asked(with_nic)
    root = ElementTree.fromstring(text)
    harm(root)
    with pytest.raises(arriving.NotOurs):
        arriving.check(ElementTree.tostring(root, encoding="unicode"), text)


def test_no_xml_at_all() -> None:
    for bad in ("", "<domain>", "<network/>"):
        with pytest.raises(arriving.NotOurs):
            arriving.check(bad, asked())


def test_a_host_of_another_kind_is_another_machine() -> None:
    order = golden.order()
    host = Host(Accelerator.KVM, guest_uid=5)
    taps = {nic.name: f"bt{n}" for n, nic in enumerate(order.machine.nics)}
    text = xml.render(build.build(order, files.expected(order.uid, order.machine), taps, host))
    arriving.check(text, text)
    with pytest.raises(arriving.NotOurs):
        arriving.check(text.replace("+5:+5", "+6:+6"), text)
