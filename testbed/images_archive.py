"""Turns a docker-archive into the folder that its layers make together. Called by guests.py and rootfs.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from testbed import shell


def unpack(archive: Path, folder: Path) -> None:
    """Lay the layers of a docker-archive over each other in `folder`."""
    folder.mkdir(parents=True)
    with tarfile.open(archive) as outer:
        member = outer.extractfile("manifest.json")
        assert member is not None
        layers = json.load(member)[0]["Layers"]
    for layer in layers:
        tar = folder.with_suffix(".layer")
        with tar.open("wb") as file:
            subprocess.run(["tar", "-xOf", archive, layer], stdout=file, check=True)
        for name in shell.run(["tar", "-tf", tar]).splitlines():
            _white_out(folder, PurePosixPath(name))
        shell.run(["tar", "-xpf", tar, "--exclude=.wh.*", "--numeric-owner", "-C", folder])
        tar.unlink()


def _white_out(folder: Path, name: PurePosixPath) -> None:
    if not name.name.startswith(".wh."):
        return
    parent = folder / name.parent
    gone = list(parent.iterdir()) if name.name == ".wh..wh..opq" else [parent / name.name.removeprefix(".wh.")]
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
