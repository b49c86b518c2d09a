"""Boots the smallest example and shows what to do with it: the last step of `make up`. Called by cli.py only."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from testbed import errors, shell
from testbed.binaries import ensure
from testbed.progress import Progress, Task
from testbed.settings import Settings

MACHINE, SECONDS, CONSOLE_LINES = "tiny", 120.0, 6
GREETING = "berth-guest: ip"  # the tiny guest prints this when its network is up


def demo(settings: Settings, progress: Progress) -> None:
    """Apply examples/tiny.yaml and wait until the guest runs."""
    tools = ensure.ensure(settings, progress, ("kubernetes",))
    kubectl = [str(tools["kubectl"]), f"--kubeconfig={settings.kubeconfig}"]
    with progress.task(f"virtual machine {MACHINE}") as task:
        shell.run([*kubectl, "apply", "-f", settings.repository / "examples" / "tiny.yaml"])
        _wait(kubectl, task)
        console = _console(kubectl)
    progress.say(
        f"\n{console}\n\n" + shell.run([*kubectl, "get", "vm", "-o", "wide"]) + "\n" + advice(settings.kubeconfig)
    )


def advice(kubeconfig: Path) -> str:
    """What a newcomer types next."""
    return f"""\
Next:
  export KUBECONFIG={kubeconfig}
  kubectl get vm -w
  kubectl attach -it berth-{MACHINE}      # the serial console; leave it with Ctrl-C
  kubectl explain vm.spec
  kubectl apply -f examples/debian.yaml
"""


def _wait(kubectl: list[str], task: Task) -> None:
    end, machine = time.monotonic() + SECONDS, {}
    while time.monotonic() < end:
        machine = json.loads(shell.run([*kubectl, "get", "vm", MACHINE, "-o", "json"]))
        task.note = summary(machine)
        if machine.get("status", {}).get("phase") == "Running":
            return
        time.sleep(0.3)
    raise errors.NotReady(f"the machine {MACHINE} does not run after {SECONDS:.0f} s: {summary(machine)}")


def summary(machine: dict[str, Any]) -> str:
    """The phase, and what the first condition that is not True says."""
    status = machine.get("status", {})
    waits = [c for c in status.get("conditions", []) if c.get("status") != "True"]
    reason = f": {waits[0].get('reason', '')} {waits[0].get('message', '')}".rstrip() if waits else ""
    return f"{status.get('phase', 'Pending')}{reason}"


def _console(kubectl: list[str]) -> str:
    """The end of the guest's console once its user space has said something; an emulated one needs seconds for that."""
    end, text = time.monotonic() + 30, ""
    while GREETING not in text and time.monotonic() < end:
        time.sleep(0.3)
        text = shell.run([*kubectl, "logs", f"berth-{MACHINE}"])
    return "\n".join(text.replace("\r", "").strip().splitlines()[-CONSOLE_LINES:])
