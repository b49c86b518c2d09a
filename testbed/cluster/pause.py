"""Makes the image that every pod's sandbox runs: one static program that waits. Needs a C compiler, no registry.

Called by apply.py; the archive is cached, so the compiler is needed once.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from pathlib import Path

from testbed import errors, files, shell
from testbed.cluster import layout
from testbed.settings import Settings

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Process 1 of a pod's sandbox: reaps what it inherits when a pod shares its process namespace, ends when told to.
SOURCE = """\
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGINT, leave); signal(SIGTERM, leave); signal(SIGCHLD, reap);
  for (;;) pause();
}
"""


def ensure(settings: Settings) -> Path:
    """The archive's path; built when the cache has none for this source."""
    version = hashlib.sha256(SOURCE.encode()).hexdigest()[:12]
    archive = settings.cache / "images" / f"pause-{version}.tar"
    if not archive.exists():
        files.write(archive, docker_archive(_compile(), layout.PAUSE_IMAGE))
    return archive


def docker_archive(program: bytes, tag: str) -> bytes:
    """An image archive with one layer that holds one program, /pause."""
    layer = _tar({"pause": program}, mode=0o755)
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    return _tar({"manifest.json": manifest, "config.json": config, "layer.tar": layer}, mode=0o644)


def _compile() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "pause.c", Path(folder) / "pause"
        source.write_text(SOURCE)
        try:
            shell.run(["cc", "-Os", "-static", "-s", "-o", program, source])
        except errors.CommandFailed as error:
            advice = "the pause image cannot be built; run `python -m testbed prerequisites`"
            raise errors.Unavailable(f"{advice}\n{error}") from error
        return program.read_bytes()


def _tar(members: dict[str, bytes], mode: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()
