"""Builds programs from their Go modules (testbed/go/<release>), and finds or fetches the Go compiler for it.

go.mod pins the versions, go.sum the checksums; GOPROXY and the other Go settings of the environment are honoured.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from testbed import errors, shell
from testbed.binaries import catalog, download
from testbed.binaries.catalog import Release, Tool

Report = Callable[[str, float | None], None]


def build(release: Release, modules: Path, cache: Path, target: Path, report: Report) -> None:
    """Build every tool of a release into the target folder."""
    go, environment = compiler(cache, report)
    for tool in release.tools:
        report(f"building {tool.name} from its Go module", None)
        environment["CGO_ENABLED"] = "1" if release.cgo else "0"
        _build(go, environment, release, tool, modules / release.name, target, report)


def compiler(cache: Path, report: Report) -> tuple[str, dict[str, str]]:
    """A Go that is new enough: the one on the PATH, the one it can fetch itself, or the toolchain module."""
    environment = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOTOOLCHAIN": "local"}
    installed = shutil.which("go")
    version = _version(installed) if installed else (0, 0, 0)
    if installed and version >= _parse(catalog.GO):
        return installed, environment
    if installed and version >= (1, 21, 0):  # from here on Go fetches and verifies another Go by itself
        return installed, {**environment, "GOTOOLCHAIN": f"go{catalog.GO}"}
    return str(_toolchain(cache, report) / "bin" / "go"), environment


def _build(
    go: str, environment: dict[str, str], release: Release, tool: Tool, module: Path, target: Path, report: Report
) -> None:
    packages = shell.run([go, "list", "-deps", tool.package], environment=environment, folder=module, timeout=900)
    total, seen = len(packages.splitlines()), 0

    def on_line(line: str) -> None:
        nonlocal seen
        if "/" in line and not line.startswith("go:"):
            seen += 1
            report(f"building {tool.name} from its Go module", min(seen / total, 1.0))

    flags = " ".join(("-s", "-w", *release.linker_flags))
    command = [go, "build", "-v", "-ldflags", flags, "-o", str(target / tool.name), tool.package]
    shell.stream(command, on_line, environment=environment, folder=module)


def _version(go: str) -> tuple[int, ...]:
    try:
        return _parse(shell.run([go, "env", "GOVERSION"], environment={"GOTOOLCHAIN": "local"}))
    except errors.TestbedError:
        return (0, 0, 0)


def _parse(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)


def _toolchain(cache: Path, report: Report) -> Path:
    """Go itself: from its vendor, or as the module golang.org/toolchain where only a module proxy is reached."""
    target = cache / "go" / f"{catalog.GO}-{architecture()}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    report(f"fetching Go {catalog.GO}", None)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        try:
            _from_vendor(folder)
        except errors.Unavailable as unavailable:
            _from_proxy(folder, unavailable)
        (folder / "go").rename(target)
    return target


def _from_vendor(folder: Path) -> None:
    url = f"https://dl.google.com/go/go{catalog.GO}.linux-{architecture()}.tar.gz"
    content = download.Downloader().verified(catalog.Download(url, f"{url}.sha256"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="tar")  # holds one folder, go


def _from_proxy(folder: Path, unavailable: errors.Unavailable) -> None:
    proxies = [url for url in re.split(r"[,|]", os.environ.get("GOPROXY", "")) if url.startswith("http")]
    if not proxies:
        needed = f"Go {catalog.GO} is needed to build what cannot be downloaded"
        raise errors.Unavailable(f"{needed} ({unavailable}): install Go 1.21 or newer, or set GOPROXY") from unavailable
    arch = architecture()
    version = f"v0.0.1-go{catalog.GO}.linux-{arch}"
    archive = folder / "go.zip"
    with urllib.request.urlopen(f"{proxies[0]}/golang.org/toolchain/@v/{version}.zip", timeout=20) as answer:
        archive.write_bytes(answer.read())
    unpack_toolchain(archive, version, folder, catalog.GO_TOOLCHAIN[arch])


def unpack_toolchain(archive: Path, version: str, folder: Path, expected: str) -> None:
    """Check the zip's directory hash, then unpack it as folder/go with programs made executable."""
    prefix = f"golang.org/toolchain@{version}/"
    with zipfile.ZipFile(archive) as source:
        actual = directory_hash(source)
        if actual != expected:
            raise errors.TestbedError(f"golang.org/toolchain@{version}: its hash is {actual}, pinned is {expected}")
        for name in source.namelist():
            path = folder / "go" / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read(name))
            if "/bin/" in name or "/pkg/tool/" in name:
                path.chmod(0o755)


def directory_hash(archive: zipfile.ZipFile) -> str:
    """The `h1:` hash of go.sum: SHA-256 over the sorted list of each file's SHA-256 and name."""
    lines = [f"{hashlib.sha256(archive.read(name)).hexdigest()}  {name}\n" for name in sorted(archive.namelist())]
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


def architecture() -> str:
    """This machine's name in Go's words."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = os.uname().machine
    if machine not in names:
        raise errors.Unavailable(f"machines of type {machine} are not supported; x86_64 and aarch64 are")
    return names[machine]
