"""Environment → paths and numbers of a testbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import errors, settings


def test_defaults() -> None:
    where = settings.load({"HOME": "/home/ada"})
    assert (where.state, where.data) == (Path("/run/berth-testbed"), Path("/var/lib/berth-testbed"))
    assert where.cache == Path("/home/ada/.cache/berth")
    assert where.kubeconfig == Path("/run/berth-testbed/kubeconfig")


def test_every_path_can_be_chosen() -> None:
    where = settings.load({"BERTH_STATE": "/a", "BERTH_DATA": "/b", "BERTH_CACHE": "/c"})
    assert (where.state, where.data, where.cache) == (Path("/a"), Path("/b"), Path("/c"))


def test_a_second_testbed_has_its_own_folders_and_the_same_cache() -> None:
    first, second = settings.load({"HOME": "/h"}), settings.load({"HOME": "/h", "BERTH_TESTBED_INDEX": "1"})
    assert second.state != first.state
    assert second.data != first.data
    assert second.cache == first.cache


@pytest.mark.parametrize("value", ["10", "-1", "x", ""])
def test_a_bad_index_is_refused_with_the_value(value: str) -> None:
    with pytest.raises(errors.TestbedError, match=f"given '{value}'"):
        settings.load({"BERTH_TESTBED_INDEX": value})
