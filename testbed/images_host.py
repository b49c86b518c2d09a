"""Turns how this machine reaches its package sources into one shell script that build steps may source.

Called by images_engine.py, which hands the script to each build as the secret `host`: a build step sees this machine's
apt sources, proxies, certificate authorities and Python index while it runs, and no image layer or tracked file holds
any of it. A machine with nothing special gives a script that changes nothing that matters.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import errors, shell

SUITE = "trixie"
STOCK_MIRROR = "http://deb.debian.org/debian"
STOCK_SECURITY = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_APT_KEYS = re.compile(r"^Acquire::(https?|Retries|Check-Valid-Until|Check-Date|ForceIPv4|Proxy)\b.*", re.IGNORECASE)
_PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_INDEX_NAMES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_CA_NAMES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PIP_FILES = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")


@dataclass(frozen=True, slots=True)
class Host:
    """Where packages come from on this machine."""

    mirror: str = STOCK_MIRROR
    security: str = STOCK_SECURITY
    apt_options: tuple[str, ...] = ()
    certificates: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    def sources(self, suite: str = SUITE) -> str:
        """The one-line apt sources of one Debian release."""
        signed = f"deb [signed-by={KEYRING}]"
        return "".join(
            f"{signed} {uri} {name} main\n"
            for uri, name in (
                (self.mirror, suite),
                (self.mirror, f"{suite}-updates"),
                (self.security, f"{suite}-security"),
            )
        )

    def script(self) -> str:
        """What a build step sources: files that go when the step's shell ends, and variables that name them."""
        apt = "".join(f"{line}\n" for line in self.apt_options)
        apt += 'Dir::Etc::sourcelist "/tmp/host/sources.list";\nDir::Etc::sourceparts "-";\n'
        variables = dict(self.variables) | {"APT_CONFIG": "/tmp/host/apt.conf", "DEBIAN_FRONTEND": "noninteractive"}
        files = {"apt.conf": apt, "sources.list": self.sources()}
        if self.certificates:
            files["ca.crt"] = self.certificates
            variables |= dict.fromkeys(_CA_NAMES, "/tmp/host/ca.crt")
        lines = ["mkdir -p /tmp/host", "trap 'rm -rf /tmp/host' EXIT"]
        lines += [
            f"cat > /tmp/host/{name} <<'END_OF_FILE'\n{text.rstrip()}\nEND_OF_FILE" for name, text in files.items()
        ]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
        return "\n".join(lines) + "\n"


def gather(environment: Mapping[str, str] = os.environ) -> Host:
    """Look at this machine; whatever cannot be read counts as not set."""
    mirror, security = mirrors(_read(path) for path in _source_files())
    return Host(
        mirror=mirror,
        security=security,
        apt_options=apt_options(_apt_dump()),
        certificates=_certificates(environment),
        variables=variables(environment, [_read(Path(name).expanduser()) for name in _PIP_FILES]),
    )


def mirrors(texts: Iterable[str]) -> tuple[str, str]:
    """Find the Debian mirror and the security mirror that apt source files name, in either of apt's formats."""
    uris = [uri.rstrip("/") for text in texts for uri in _uris(text)]
    main = next((uri for uri in uris if uri.endswith("/debian")), STOCK_MIRROR)
    security = next((uri for uri in uris if uri.endswith("/debian-security")), STOCK_SECURITY)
    return main, security


def apt_options(dump: str) -> tuple[str, ...]:
    """Keep what concerns reaching a mirror from `apt-config dump`."""
    return tuple(line for line in dump.splitlines() if _APT_KEYS.match(line) and not line.endswith(' "";'))


def variables(environment: Mapping[str, str], pip_files: Iterable[str] = ()) -> tuple[tuple[str, str], ...]:
    """Proxies and Python indexes; an index that only pip's own files name is told to uv as well."""
    names = (*_PROXY_NAMES, *(name.upper() for name in _PROXY_NAMES), *_INDEX_NAMES)
    found = {name: environment[name] for name in names if environment.get(name)}
    index = found.get("PIP_INDEX_URL") or _pip_index(pip_files)
    if index:
        found.setdefault("PIP_INDEX_URL", index)
        if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(found):
            found["UV_DEFAULT_INDEX"] = index
    return tuple(sorted(found.items()))


def _pip_index(texts: Iterable[str]) -> str:
    index = ""
    for text in texts:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(text)
        except configparser.Error:
            continue
        index = parser.get("global", "index-url", fallback=index)
    return index


def _uris(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    one_line = [re.sub(r"^deb\s+(\[[^]]*]\s*)?", "", line).split()[0] for line in lines if re.match(r"deb\s+\S", line)]
    fields = [line.split(":", 1)[1].split() for line in lines if line.startswith("URIs:")]
    return [
        uri
        for uri in one_line + [word for field in fields for word in field]
        if uri.startswith(("http://", "https://"))
    ]


def _source_files() -> list[Path]:
    folder = Path("/etc/apt/sources.list.d")
    parts = sorted(folder.iterdir()) if folder.is_dir() else []
    return [Path("/etc/apt/sources.list"), *(path for path in parts if path.suffix in {".list", ".sources"})]


def _apt_dump() -> str:
    try:
        return shell.run(["apt-config", "dump"])
    except errors.TestbedError:
        return ""


def _certificates(environment: Mapping[str, str]) -> str:
    named = next((environment[name] for name in _CA_NAMES if environment.get(name)), "")
    return _read(Path(named or "/etc/ssl/certs/ca-certificates.crt"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
