"""Gives the archives of all container images that the cluster runs, building those whose inputs changed.

Called by the cluster's start, by the chart's installer (references) and as `python -m testbed.images [NAME…]`.
An image's tag is a hash of everything its Dockerfile copies, so a changed source rolls out by itself and the second
call is instant. Guests' disks and kernels are guests.py's work.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
import shlex
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import errors, images_engine, settings

REGISTRY = "ghcr.io/berth-dev"
_KEPT, _TRIES = 3, 8
_log = logging.getLogger("testbed")


@dataclass(frozen=True, slots=True)
class Image:
    """One Dockerfile, or one stage of it; without a fixed tag its tag follows its content."""

    name: str
    dockerfile: str
    repository: str
    tag: str = ""
    target: str = ""


IMAGES = (
    Image("testtools", "images/testtools/Dockerfile", f"{REGISTRY}/testtools", "dev"),
    Image("berth", "images/berth/Dockerfile", f"{REGISTRY}/berth"),
    Image("agent", "images/agent/Dockerfile", f"{REGISTRY}/agent"),
    Image("controller", "images/controller/Dockerfile", f"{REGISTRY}/controller"),
)


@dataclass(frozen=True, slots=True)
class Build:
    """One image with its inputs read: where its archive is to be and what it is to be called."""

    image: Image
    digest: str
    reference: str
    archive: Path

    @classmethod
    def of(cls, image: Image, where: settings.Settings) -> Build:
        digest = input_digest(where.repository, image.dockerfile, image.target)
        tag = image.tag or f"{version(where.repository)}-{digest[:12]}"
        archive = where.cache / "images" / f"{image.name}-{digest[:12]}.tar"
        return cls(image, digest, f"{image.repository}:{tag}", archive)


def ensure(
    names: Sequence[str] = (), where: settings.Settings | None = None, images: Sequence[Image] = IMAGES
) -> list[Path]:
    """Have the archives of the named images, all of them by default, and return their paths."""
    where = where or settings.load()
    builds = [Build.of(image, where) for image in select(names, images)]
    if all(build.archive.exists() for build in builds):
        return [build.archive for build in builds]
    with _lock(where.cache / "images"):
        return [build.archive if build.archive.exists() else _make_settled(build.image, where) for build in builds]


def references(names: Sequence[str] = (), where: settings.Settings | None = None) -> dict[str, str]:
    """The full name with its tag of each image, by its short name: what the chart's values need. Builds nothing."""
    where = where or settings.load()
    return {image.name: Build.of(image, where).reference for image in select(names, IMAGES)}


def select(names: Sequence[str], images: Sequence[Image]) -> list[Image]:
    """The images of these short names; all when none is given."""
    known = {image.name: image for image in images}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise errors.TestbedError(f"image {unknown[0]!r} is unknown; the images are {', '.join(known)}")
    return [known[name] for name in names] if names else list(images)


def input_digest(repository: Path, dockerfile: str, target: str = "") -> str:
    """Hash the Dockerfile up to the target stage and every file that this part copies, with names and modes."""
    text = until((repository / dockerfile).read_text(), target)
    digest = hashlib.sha256(text.encode())
    for path in inputs(repository, dockerfile, target):
        relative = path.relative_to(repository).as_posix()
        digest.update(f"{relative}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def inputs(repository: Path, dockerfile: str, target: str = "") -> list[Path]:
    """The files that the Dockerfile's COPY lines take from the tree, in a stable order."""
    found: set[Path] = set()
    for source in copied(until((repository / dockerfile).read_text(), target)):
        path = repository / source
        if path.is_dir():
            found |= {file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
        elif path.is_file():
            found.add(path)
        else:
            raise errors.TestbedError(f"{dockerfile}: COPY {source}: no such file in {repository}")
    return sorted(found)


def copied(text: str) -> Iterator[str]:
    """The sources of the COPY lines that do not copy from another stage."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0].upper() != "COPY" or any(word.startswith("--from=") for word in words):
            continue
        yield from [word for word in words[1:] if not word.startswith("--")][:-1]


def until(text: str, target: str) -> str:
    """The Dockerfile up to the end of the target stage; all of it without a target."""
    if not target:
        return text
    stages = re.split(r"(?mi)^(?=FROM )", text)
    ends = [i for i, stage in enumerate(stages) if re.match(rf"(?i)FROM \S+ AS {re.escape(target)}\s", stage)]
    if not ends:
        raise errors.TestbedError(f"the Dockerfile has no stage {target!r}")
    return "".join(stages[: ends[0] + 1])


def version(repository: Path) -> str:
    """Berth's version, as pyproject.toml has it."""
    return str(tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"])


def _make_settled(image: Image, where: settings.Settings) -> Path:
    """Build until the tree stood still meanwhile: an archive must never hold what its name does not say."""
    for _ in range(_TRIES):
        build = Build.of(image, where)
        partial = _make(build, where)
        if Build.of(image, where) == build:
            partial.replace(build.archive)
            _prune(build.archive.parent.glob(f"{image.name}-*.tar"))
            return build.archive
        partial.unlink()
    raise errors.NotReady(f"{image.dockerfile}: what it copies changed during each of {_TRIES} builds; stop editing")


def _make(build: Build, where: settings.Settings) -> Path:
    engine = images_engine.choose(where.cache)
    began = time.monotonic()
    _log.info("images: building %s with %s", build.reference, engine.name)
    engine.build(where.repository / build.image.dockerfile, build.reference, where.repository, build.image.target)
    partial = build.archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    engine.save(build.reference, partial)
    megabytes = partial.stat().st_size / 1e6
    _log.info("images: %s took %.1f s, %.0f MB", build.image.name, time.monotonic() - began, megabytes)
    return partial


def _prune(archives: Iterable[Path]) -> None:
    """Old archives of an image go, except the newest few: a cluster may be importing one just now."""
    for path in sorted(archives, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        path.unlink()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One build at a time per cache; the lock goes with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> None:
    """Print each image's full name and archive."""
    logging.basicConfig(level=logging.DEBUG if "-v" in arguments else logging.INFO, format="%(message)s")
    names = [word for word in arguments if word != "-v"]
    archives = ensure(names)
    for reference, path in zip(references(names).values(), archives, strict=True):
        print(f"{reference}\t{path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except errors.TestbedError as error:
        sys.exit(f"error: {error}")
