"""The marks of reverts in a machine's folder of the volume. Used by states.py, snapshots.py and reverts.py.

reverting.json   the request whose disks are being written, or were: nothing else may be started from them
reverted.json    the last request that was carried out
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from berth.api.kept import RevertOrder
from berth.domain.observed import KeptStates
from berth.effects import kept_files, paths, snapshot_folders
from berth.errors import HostFault

REVERTING: Final = "reverting.json"
REVERTED: Final = "reverted.json"


def look(folder: int, kept: KeptStates) -> KeptStates:
    """What is known of snapshots and reverts, beside the states."""
    done, half = reverted(folder), _read(folder, REVERTING)
    over = half is not None and half.request == done
    return replace(kept, snapshots=snapshot_folders.whole(folder), reverted=done, reverting=None if over else half)


def reverted(folder: int) -> str:
    done = _read(folder, REVERTED)
    return done.request if done is not None else ""


def _read(folder: int, name: str) -> RevertOrder | None:
    try:
        return RevertOrder.model_validate_json(paths.read_regular(folder, name, kept_files.MANIFEST_BYTES))
    except paths.PathMissing:
        return None
    except ValidationError as error:
        text = f"{name}: cannot be read: {error.errors()[0]['msg']}. Next: revert to a snapshot, and remove that file"
        raise HostFault(text, reason="StateUnreadable") from error


def write(folder: int, name: str, revert: RevertOrder) -> None:
    kept_files.write(folder, name, (revert.model_dump_json(by_alias=True) + "\n").encode())
