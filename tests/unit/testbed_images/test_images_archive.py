"""Layers lie over each other as a container runtime lays them: later ones win, whiteouts take away."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from testbed import images_archive


def layer(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            info.mode = 0o4755 if text == "setuid" else 0o644
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def archive(path: Path, *layers: bytes) -> Path:
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    files = dict(zip(names, layers, strict=True)) | {"manifest.json": json.dumps([{"Layers": names}]).encode()}
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_later_layers_win_and_modes_stay(tmp_path: Path) -> None:
    layers = layer({"etc/x": "old", "bin/tool": "setuid"}), layer({"etc/x": "new"})
    images_archive.unpack(archive(tmp_path / "a.tar", *layers), tmp_path / "root")
    assert (tmp_path / "root/etc/x").read_text() == "new"
    assert (tmp_path / "root/bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "root"]


def test_whiteouts_remove_files_folders_and_contents(tmp_path: Path) -> None:
    first = layer({"a/file": "1", "b/deep/file": "2", "c/one": "3", "c/two": "4"})
    second = layer({"a/.wh.file": "", ".wh.b": "", "c/.wh..wh..opq": "", "c/three": "5"})
    images_archive.unpack(archive(tmp_path / "a.tar", first, second), tmp_path / "root")
    left = sorted(path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*"))
    assert left == ["a", "c", "c/three"]
