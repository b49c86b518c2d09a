"""Runs a measurement in the agent image's root file system and reads what it found, a line of JSON each. No cluster.

Used by migration.py and suspend.py outside, and by migration_runs.py and suspend_runs.py inside.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
MARK: Final = "RESULT "


def results(module: str, *words: str) -> Iterator[dict[str, Any]]:
    """As they come; whatever else it says is shown only when it fails."""
    command = (sys.executable, "-m", "testbed.rootfs", "--", "python3", "-m", module, *words)
    rest: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as lab:
        assert lab.stdout is not None
        for line in lab.stdout:
            rest.append(line)
            if line.startswith(MARK):
                yield json.loads(line.removeprefix(MARK))
    if lab.returncode != 0:
        raise AssertionError(f"{module} did not come to its end:\n" + "".join(rest[-60:]))


def tell(found: dict[str, Any]) -> None:
    print(MARK + json.dumps(found), flush=True)
