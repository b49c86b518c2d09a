"""QEMU's last words out of libvirt's logs of a domain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from berth.effects.journal import KEPT, QemuLogs, last_line

UID = "12345678-0000-4000-8000-000000000001"
STARTED = """2026-11-23 10:00:00.000+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.2
LC_ALL=C \\
PATH=/usr/bin \\
HOME=/var/lib/libvirt/qemu/domain-1-team_web \\
/usr/local/bin/berth-qemu \\
-name guest=team_web_12345678,debug-threads=on \\
-S \\
"""


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        (STARTED, ""),
        (STARTED + "2026-11-23 10:00:09.000+0000: shutting down, reason=crashed\n", ""),
        (
            STARTED + "2026-11-23T10:00:05.1Z qemu-system-x86_64: terminating on signal 15 from pid 9 (kill)\n",
            "qemu-system-x86_64: terminating on signal 15 from pid 9 (kill)",
        ),
        (
            STARTED + "berth-qemu: /run/berth/vms/x/cgroup: not root's\n",
            "berth-qemu: /run/berth/vms/x/cgroup: not root's",
        ),
        (STARTED + "old words\n" + STARTED, ""),
        (STARTED + "2026-11-23 10:00:01.000+0000: Domain id=1 is tainted: high-privileges\n", ""),
        (STARTED + "qemu-system-x86_64: warning: TCG doesn't support requested feature\n", ""),
        (STARTED + "evil \x1b[2J words\n", "evil ?[2J words"),
        (STARTED + "x" * 1000, "x" * 300),
    ],
    ids=["empty", "started", "shut down", "signal", "wrapper", "earlier run", "libvirt", "warning", "escape", "long"],
)
def test_last_line(log: str, words: str) -> None:
    assert last_line(log) == words


def test_the_newest_log_of_that_machine_counts(tmp_path: Path) -> None:
    for name, age in (("team_web_12345678.log", 0), ("old_web_12345678.log", 100), ("team_db_87654321.log", -100)):
        (tmp_path / name).write_text(STARTED + f"words of {name}\n")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert QemuLogs(tmp_path).last_words(UID) == "words of team_web_12345678.log"


def test_a_long_log_is_read_from_its_end_and_no_log_is_no_words(tmp_path: Path) -> None:
    assert QemuLogs(tmp_path / "nowhere").last_words(UID) == ""
    (tmp_path / "team_web_12345678.log").write_bytes(b"\xff" * 100_000 + b"\nthe end\n")
    assert QemuLogs(tmp_path).last_words(UID) == "the end"


def test_of_domains_that_are_no_more_only_the_newest_logs_stay(tmp_path: Path) -> None:
    logs, domains = tmp_path / "logs", tmp_path / "domains"
    logs.mkdir()
    domains.mkdir()
    for number in range(3 * KEPT):
        log = logs / f"team_vm{number}_{number:08d}.log"
        log.write_text(STARTED)
        os.utime(log, (1e9 + number, 1e9 + number))
    (domains / "team_vm0_00000000.xml").touch()  # the oldest of all still runs
    QemuLogs(logs, domains).last_words(UID)
    newest = {f"team_vm{number}_{number:08d}" for number in range(2 * KEPT, 3 * KEPT)}
    assert {log.stem for log in logs.iterdir()} == {"team_vm0_00000000", *newest}
