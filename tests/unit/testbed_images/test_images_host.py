"""What build steps are told of this machine: mirrors, proxies, certificate authorities, the Python index."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testbed import images_base, images_host

DEB822 = """\
Types: deb
# URIs: http://old.example/debian
URIs: http://mirror.example/debian/
Suites: bookworm

Types: deb
URIs: https://mirror.example/debian-security
"""
ONE_LINE = """\
# deb http://no.example/debian trixie main
deb [arch=amd64 signed-by=/k] https://other.example/debian trixie main
deb-src http://source.example/debian trixie main
deb https://packages.example/tool stable main
"""


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([DEB822], ("http://mirror.example/debian", "https://mirror.example/debian-security")),
        ([ONE_LINE], ("https://other.example/debian", images_host.STOCK_SECURITY)),
        ([ONE_LINE, DEB822], ("https://other.example/debian", "https://mirror.example/debian-security")),
        ([""], (images_host.STOCK_MIRROR, images_host.STOCK_SECURITY)),
        (["deb cdrom:[x]/ trixie main\nURIs:"], (images_host.STOCK_MIRROR, images_host.STOCK_SECURITY)),
    ],
)
def test_mirrors_are_found_in_both_formats(texts: list[str], expected: tuple[str, str]) -> None:
    assert images_host.mirrors(texts) == expected


def test_only_options_about_reaching_a_mirror_are_kept() -> None:
    dump = "\n".join(
        [
            'APT::Architecture "amd64";',
            'Acquire::http::Proxy "http://proxy.example:3128";',
            'Acquire::https::Proxy "";',
            'Acquire::Check-Valid-Until "false";',
            'Acquire::Languages "none";',
        ]
    )
    expected = ('Acquire::http::Proxy "http://proxy.example:3128";', 'Acquire::Check-Valid-Until "false";')
    assert images_host.apt_options(dump) == expected


def test_an_index_that_only_pip_knows_is_told_to_uv() -> None:
    found = dict(images_host.variables({}, ["[global]\nindex-url = https://index.example/simple\n"]))
    assert found == dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), "https://index.example/simple")


def test_uvs_own_index_wins_and_broken_files_count_for_nothing() -> None:
    environment = {"UV_DEFAULT_INDEX": "https://a.example", "PIP_INDEX_URL": "https://b.example", "HOME": "/root"}
    assert dict(images_host.variables(environment, ["not an ini file"])) == {
        "UV_DEFAULT_INDEX": "https://a.example",
        "PIP_INDEX_URL": "https://b.example",
    }


def test_proxies_go_in_under_both_spellings() -> None:
    environment = {"http_proxy": "http://p.example", "HTTPS_PROXY": "http://q.example", "no_proxy": ""}
    expected = {"http_proxy": "http://p.example", "HTTPS_PROXY": "http://q.example"}
    assert dict(images_host.variables(environment)) == expected


def test_the_script_runs_in_a_plain_shell_and_leaves_nothing(tmp_path: Path) -> None:
    host = images_host.Host(
        mirror="http://mirror.example/debian",
        apt_options=('Acquire::http::Proxy "http://proxy.example";',),
        certificates="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
        variables=(("PIP_INDEX_URL", "https://user:pa'ss@index.example/simple"),),
    )
    folder = tmp_path / "host"
    script = tmp_path / "script"
    script.write_text(host.script().replace("/tmp/host", str(folder)))
    shown = 'echo "$PIP_INDEX_URL"; cat "$APT_CONFIG" "$SSL_CERT_FILE"; cat $(dirname "$APT_CONFIG")/sources.list'
    done = subprocess.run(["sh", "-euc", f". {script}; {shown}"], capture_output=True, text=True, check=True)
    assert "https://user:pa'ss@index.example/simple" in done.stdout
    assert 'Acquire::http::Proxy "http://proxy.example";' in done.stdout
    assert "BEGIN CERTIFICATE" in done.stdout
    assert f"{images_host.KEYRING}] http://mirror.example/debian trixie main" in done.stdout
    assert not folder.exists()


def test_the_base_image_has_stock_sources_whatever_the_host_has() -> None:
    assert images_base.stock_sources().count("URIs: http://deb.debian.org/debian") == 2
