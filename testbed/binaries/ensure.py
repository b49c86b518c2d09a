"""Gives the path of every program: from the machine, the cache, a download or a build, in this order.

The cache is filled one release at a time, by a rename, so a kill never leaves half a release in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed import errors, shell
from testbed.binaries import catalog, golang
from testbed.binaries.catalog import Release, Tool
from testbed.binaries.download import Downloader
from testbed.progress import Progress, Task
from testbed.settings import Settings

PEOPLES_TOOLS = frozenset({"kubectl", "helm"})


def ensure(settings: Settings, progress: Progress, names: Sequence[str]) -> dict[str, Path]:
    """Paths of all tools of the named releases; fetches what is missing."""
    downloader = Downloader()
    paths: dict[str, Path] = {}
    for name in names:
        paths.update(_release(settings, progress, catalog.release(name), downloader))
    return paths


def _release(settings: Settings, progress: Progress, release: Release, downloader: Downloader) -> Mapping[str, Path]:
    folder = settings.cache / "bin" / f"{release.name}-{_version(settings, release)}"
    with _locked(settings.cache / "bin" / f".{release.name}.lock"):
        if not folder.exists():
            with progress.task(f"binaries: {release.name} {release.version}") as task:
                _fill(settings, release, folder, downloader, task)
    paths = {tool.name: folder / tool.name for tool in release.tools}
    for name in PEOPLES_TOOLS & set(paths):
        _link(settings.cache / "tools" / name, paths[name])
    return paths


def _link(link: Path, target: Path) -> None:
    """Point a stable path at the pinned version; scripts/env.sh has its folder on the PATH."""
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.symlink_to(target)
    partial.replace(link)


def _version(settings: Settings, release: Release) -> str:
    if not release.ours:
        return release.version
    sources = sorted((settings.repository / "testbed" / "go" / release.name).iterdir())
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return f"{release.version}-{digest[:12]}"


def _fill(settings: Settings, release: Release, folder: Path, downloader: Downloader, task: Task) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{release.name}.") as name:
        partial = Path(name) / "partial"
        partial.mkdir()
        if not _from_machine(release, partial):
            _fetch_or_build(settings, release, partial, downloader, task)
        for tool in release.tools:
            (partial / tool.name).chmod(0o755)
        partial.rename(folder)


def _from_machine(release: Release, target: Path) -> bool:
    """Take installed programs when all are there in the pinned version; copied, since nodes see the cache only."""
    found = {tool.name: shutil.which(tool.name) for tool in release.tools if _has_version(tool, release.version)}
    if len(found) < len(release.tools):
        return False
    for name, path in found.items():
        assert path is not None
        shutil.copyfile(path, target / name)
    return True


def _has_version(tool: Tool, version: str) -> bool:
    path = shutil.which(tool.name)
    if not path or not tool.version_arguments:
        return False
    try:
        words = shell.run([path, *tool.version_arguments], timeout=10).replace("v", " ").replace("+", " ").split()
    except errors.TestbedError:
        return False
    return version in words


def _fetch_or_build(settings: Settings, release: Release, target: Path, downloader: Downloader, task: Task) -> None:
    def report(note: str, fraction: float | None) -> None:
        task.note, task.fraction = note, fraction

    try:
        _download(release, target, downloader, report)
    except errors.Unavailable as unavailable:
        report(f"no download ({unavailable})", None)
        golang.build(release, settings.repository / "testbed" / "go", settings.cache, target, report)
        report("built from its Go module", None)


def _download(release: Release, target: Path, downloader: Downloader, report: golang.Report) -> None:
    files = release.downloads(golang.architecture())
    if not files:
        raise errors.Unavailable(f"{release.name} is published as source only")
    for tools, wanted in files:
        report(f"downloading {wanted.url.rpartition('/')[2]}", None)
        downloader.on_fraction = lambda fraction, url=wanted.url: report(
            f"downloading {url.rpartition('/')[2]}", fraction
        )  # type: ignore[misc]
        for name, content in downloader.programs(wanted, tuple(tool.name for tool in tools)).items():
            (target / name).write_bytes(content)
    report("downloaded, checksum verified", None)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two testbeds that share a cache must not build the same thing twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
