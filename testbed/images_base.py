"""Makes Debian's base image from Debian's packages, for machines where no image registry answers.

Called by images_engine.py. apt checks every package against the archive's signatures; the result holds the stock apt
sources, so it is the same whatever mirror this machine uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from testbed import images_host, shell

# Documentation and translations that nobody reads in a container; licences stay.
_LEFT_OUT = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
# Keep what apt downloads out of the layers, as Debian's own base image does.
_APT_CLEAN = """\
Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::AutoRemove::SuggestsImportant "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
"""


def stock_sources() -> str:
    """The deb822 sources file that Debian's own base image has."""
    entry = "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {}\n"
    suite, key = images_host.SUITE, images_host.KEYRING
    main = entry.format(images_host.STOCK_MIRROR, f"{suite} {suite}-updates", key)
    return main + "\n" + entry.format(images_host.STOCK_SECURITY, f"{suite}-security", key)


def bootstrap(host: images_host.Host, target: Path, on_line: Callable[[str], None]) -> None:
    """Write the base image's root file system to `target`, a tar file: about 40 seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stock").write_text(stock_sources())
        (folder / "slim").write_text("".join(f"{line}\n" for line in _LEFT_OUT))
        (folder / "clean").write_text(_APT_CLEAN)
        argv: list[shell.Argument] = ["mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar"]
        argv += [f"--aptopt={option}" for option in (*host.apt_options, 'Acquire::Languages "none";')]
        argv += [f"--dpkgopt={line}" for line in _LEFT_OUT]
        argv += [
            "--skip=cleanup/apt",
            "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/* $1/etc/apt/sources.list",
            "--customize-hook=rm -f $1/etc/hostname $1/etc/resolv.conf $1/etc/*/*.d/99mmdebstrap",
            f"--customize-hook=upload {folder}/stock /etc/apt/sources.list.d/debian.sources",
            f"--customize-hook=upload {folder}/slim /etc/dpkg/dpkg.cfg.d/docker",
            f"--customize-hook=upload {folder}/clean /etc/apt/apt.conf.d/docker-clean",
        ]
        sources = [line for line in host.sources().splitlines() if line]
        partial = target.with_suffix(".partial")
        shell.stream([*argv, images_host.SUITE, partial, *sources], on_line)
        partial.replace(target)
