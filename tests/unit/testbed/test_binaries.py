"""Pinned versions, checksums and archives."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from testbed import errors, settings
from testbed.binaries import catalog, download, golang

GO = settings.REPOSITORY / "testbed" / "go"


@pytest.mark.parametrize("release", catalog.RELEASES, ids=lambda release: release.name)
def test_every_release_has_a_module_with_checksums(release: catalog.Release) -> None:
    module = (GO / release.name / "go.mod").read_text()
    assert f"module testbed/{release.name}\n" in module
    if "require" in module:  # one of ours needs nothing but Go itself
        assert (GO / release.name / "go.sum").read_text().count("h1:") > 10
    if not release.ours:
        assert re.search(rf"\bv{re.escape(release.version)}\b", module), f"go.mod does not pin {release.version}"


def test_no_module_needs_a_newer_compiler_than_the_pinned_one() -> None:
    for path in GO.glob("*/go.mod"):
        found = re.search(r"^go (\S+)", path.read_text(), re.M)
        assert found
        assert tuple(map(int, found[1].split("."))) <= tuple(map(int, catalog.GO.split("."))), path


def test_a_plain_download_is_one_file_per_tool() -> None:
    files = catalog.release("kubernetes").downloads("amd64")
    assert len(files) == len(catalog.release("kubernetes").tools)
    assert files[0][1].url.endswith(f"/v{catalog.KUBERNETES}/bin/linux/amd64/kube-apiserver")


def test_an_archive_gives_all_tools_at_once() -> None:
    [(tools, wanted)] = catalog.release("containerd").downloads("arm64")
    assert [tool.name for tool in tools] == ["containerd", "ctr", "containerd-shim-runc-v2"]
    assert wanted.members is not None
    assert wanted.members["ctr"] == "bin/ctr"


@pytest.mark.parametrize(("text", "name"), [("AB12\n", "x"), ("ffff  other\nab12  x\n", "x"), ("ab12 *x", "x")])
def test_every_form_of_checksum_file_is_read(text: str, name: str) -> None:
    assert download._pick(text, name) == "ab12"


def test_a_checksum_file_that_does_not_name_the_download_is_no_proof() -> None:
    with pytest.raises(errors.Unavailable, match="does not name x"):
        download._pick("ffff  other\n", "x")


class Vendor(download.Downloader):
    """A vendor with files in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.files = files

    def _fetch(self, url: str) -> bytes:
        return self.files[url]


def _archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_an_archive_with_the_right_checksum_is_unpacked() -> None:
    content = _archive(tool=b"program")
    checksum = f"{hashlib.sha256(content).hexdigest()}  a.tar.gz".encode()
    wanted = catalog.Download("https://v/a.tar.gz", "https://v/sum", {"tool": "bin/tool"})
    assert Vendor({wanted.url: content, wanted.checksum_url: checksum}).programs(wanted, ("tool",)) == {
        "tool": b"program"
    }


def test_a_changed_download_is_refused_with_both_checksums() -> None:
    wanted = catalog.Download("https://v/a", "https://v/sum")
    with pytest.raises(errors.TestbedError, match=r"its SHA-256 is .*, its vendor says aaaa"):
        Vendor({wanted.url: b"program", wanted.checksum_url: b"aaaa"}).programs(wanted, ("a",))


def test_an_unreachable_vendor_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(url: str, timeout: float) -> None:
        asked.append(url)
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    downloader = download.Downloader()
    wanted = catalog.Download("https://v/a", "https://v/sum")
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            downloader.programs(wanted, ("a",))
    assert len(asked) == 1


def test_the_directory_hash_is_the_one_of_go_sum() -> None:
    """The known value of an archive with one file: computed with Go's own dirhash.HashZip rule."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m@v1/b", "2")
        archive.writestr("m@v1/a", "1")
    lines = "".join(f"{hashlib.sha256(text).hexdigest()}  m@v1/{name}\n" for name, text in (("a", b"1"), ("b", b"2")))
    with zipfile.ZipFile(stream) as archive:
        value = golang.directory_hash(archive)
    import base64

    assert value == "h1:" + base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()


def test_a_toolchain_with_another_hash_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "go.zip", "w") as archive:
        archive.writestr("golang.org/toolchain@v1/bin/go", "x")
    with pytest.raises(errors.TestbedError, match="pinned is h1:other"):
        golang.unpack_toolchain(tmp_path / "go.zip", "v1", tmp_path, "h1:other")
    assert not (tmp_path / "go").exists()


def test_every_supported_machine_has_a_pinned_toolchain() -> None:
    assert set(catalog.GO_TOOLCHAIN) == {"amd64", "arm64"}
    assert all(value.startswith("h1:") for value in catalog.GO_TOOLCHAIN.values())
