"""Builds one image from its Dockerfile and saves it as an archive: with Docker where it runs, else with buildah.

Called by images.py and guests.py. Layers are cached by the engine outside the tree, so an unchanged step costs nothing.
It must not decide what to build: it gets a Dockerfile and a name.
"""

from __future__ import annotations

import functools
import logging
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testbed import errors, images_base, images_host, shell

BASE = f"docker.io/library/debian:{images_host.SUITE}-slim"
# What `python -m testbed prerequisites` installs on a Debian-like machine so that this module works without Docker.
PACKAGES = ("buildah", "mmdebstrap", "debian-archive-keyring", "ca-certificates")

_REGISTRY = "https://registry-1.docker.io/v2/"
_log = logging.getLogger("testbed")


class Engine(Protocol):
    """What can turn a Dockerfile into an archive."""

    @property
    def name(self) -> str: ...

    def build(self, dockerfile: Path, reference: str, context: Path, target: str = "") -> None: ...

    def save(self, reference: str, target: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Docker:
    """BuildKit in a Docker daemon; it pulls the base image by itself."""

    name: str = "docker"

    def build(self, dockerfile: Path, reference: str, context: Path, target: str = "") -> None:
        with _host_script() as script:
            argv: list[shell.Argument] = ["docker", "build", "--network=host", "--secret", f"id=host,src={script}"]
            argv += ["-f", dockerfile, "-t", reference, *_target(target), context]
            shell.stream(argv, _progress, environment={"DOCKER_BUILDKIT": "1"})

    def save(self, reference: str, target: Path) -> None:
        shell.run(["docker", "save", "-o", target, reference])


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah without a daemon; it keeps its store in Berth's cache and works inside containers too."""

    store: Path
    name: str = "buildah"

    def build(self, dockerfile: Path, reference: str, context: Path, target: str = "") -> None:
        self._base()
        with _host_script() as script:
            argv = self._argv("build", "--layers", "--isolation", "chroot", "--pull-never", "--format", "docker")
            argv += ["--secret", f"id=host,src={script}", "-f", dockerfile, "-t", reference, *_target(target), context]
            shell.stream(argv, _progress)

    def save(self, reference: str, target: Path) -> None:
        shell.run(self._argv("push", "--quiet", reference, f"docker-archive:{target}:{reference}"))

    def _argv(self, *words: shell.Argument) -> list[shell.Argument]:
        store: list[shell.Argument] = ["--root", self.store / "root", "--runroot", self.store / "run"]
        return ["buildah", *store, "--storage-driver", storage_driver(self.store), *words]

    def _base(self) -> None:
        """Have Debian's base image: from the store, else from its registry, else made of Debian's packages."""
        if shell.quiet(self._argv("inspect", "--type", "image", BASE)):
            return
        if registry_answers() and shell.quiet(self._argv("pull", BASE)):
            return
        _log.info("images: no registry answers; making %s from Debian packages", BASE)
        root = self.store / "base.tar"
        images_base.bootstrap(images_host.gather(), root, _progress)
        container = shell.run(self._argv("from", "scratch")).strip()
        shell.run(self._argv("add", "--quiet", container, root, "/"))
        shell.run(self._argv("config", "--cmd", "bash", container))
        shell.run(self._argv("commit", "--quiet", "--rm", container, BASE))
        root.unlink()


@functools.cache
def choose(cache: Path) -> Engine:
    """Docker when its daemon answers, else buildah; decided once a run."""
    if shutil.which("docker") and shell.quiet(["docker", "info"], timeout=10):
        return Docker()
    if shutil.which("buildah"):
        return Buildah(cache / "buildah")
    raise errors.Unavailable(
        "images: neither a running Docker nor buildah was found; run `python -m testbed prerequisites`"
    )


@functools.cache
def registry_answers() -> bool:
    """Ask Docker Hub once a run, for three seconds at most; any HTTP answer counts, a refusal to log in too."""
    try:
        urllib.request.urlopen(_REGISTRY, timeout=3).close()
    except urllib.error.HTTPError as error:
        return error.code in {200, 401}
    except (OSError, ValueError):
        return False
    return True


@functools.cache
def storage_driver(store: Path) -> str:
    """The overlay driver where the kernel has it and the store is not on an overlay itself, else plain copies."""
    store.mkdir(parents=True, exist_ok=True)
    known = "overlay" in Path("/proc/filesystems").read_text().split()
    kind = shell.run(["stat", "--file-system", "--format=%T", store]).strip()
    return "overlay" if known and kind != "overlayfs" else "vfs"


@contextmanager
def _host_script() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "host"
        path.write_text(images_host.gather().script())
        path.chmod(0o600)
        yield path


def _target(stage: str) -> list[shell.Argument]:
    return ["--target", stage] if stage else []


def _progress(line: str) -> None:
    if line.strip():
        _log.debug("%s", line)
