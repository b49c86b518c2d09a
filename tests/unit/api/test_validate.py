"""Every documented bad input is refused with path, limit and value; YAML's own traps have an answer too."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.api import validate
from berth.api.virtualmachine import Power, VirtualMachine
from berth.plan import world
from tests.unit.api.bad_inputs import Bad, good, manifest
from tests.unit.api.bad_kinds import ROWS
from tests.unit.api.bad_migrations import migration
from tests.unit.api.bad_networks import network
from tests.unit.api.bad_snapshots import snapshot


def problems(data: dict[str, Any]) -> list[validate.Problem]:
    result = validate.check(data)
    return result if isinstance(result, list) else []


@pytest.mark.parametrize(("kind", "bad"), ROWS)
def test_bad_input_is_refused_with_path_limit_and_value(kind: str, bad: Bad) -> None:
    found = problems(manifest(bad.spec, kind=kind))
    assert bad.path in [p.path for p in found]
    text = "\n".join(map(str, found))
    for words in bad.said:
        assert words in text


@pytest.mark.parametrize("spec", [snapshot(), snapshot(memory=False, deadline="24h")])
def test_a_good_snapshot_is_taken(spec: dict[str, Any]) -> None:
    assert problems(manifest(spec, kind="Snapshot")) == []


@pytest.mark.parametrize(
    "spec",
    [
        migration(),
        migration(target={"nodeName": "node-2"}, deadline="10s", maxDowntime="10s", bandwidth="1G"),
        migration(target={"nodeSelector": {"zone": "b"}}, deadline="24h", priority="Drain", cancel=True),
    ],
)
def test_a_good_migration_is_taken(spec: dict[str, Any]) -> None:
    assert problems(manifest(spec, kind="Migration")) == []


@pytest.mark.parametrize(
    "spec",
    [
        network(),
        network(ipv6={"range": "fd00:9::/64", "gateway": "fd00:9::1"}, egress={"type": "NAT"}),
        {"bridge": {"name": "br0"}},
        {
            "vlan": {"device": "eth1.x", "id": 1},
            "ipv4": {"range": "10.0.0.0/8", "exclude": ["10.1.0.0/16", "10.2.0.1"]},
        },
    ],
)
def test_a_good_network_is_taken(spec: dict[str, Any]) -> None:
    assert problems(manifest(spec, kind="Network")) == []


def test_all_problems_are_told_at_once() -> None:
    found = problems(manifest(good(cpu={"count": 0}, memory={"size": "x"}, colour="red")))
    assert {p.path for p in found} == {"spec.cpu.count", "spec.memory.size", "spec.colour"}


TEXT = """\
# two machines and a Secret
kind: VirtualMachine
apiVersion: berth.dev/v1alpha1
metadata: {name: one}
spec:
  disks:
    - name: root
      container:
        image: x
        pth: /a
---
apiVersion: v1
kind: Secret
metadata: {name: key}
---
apiVersion: berth.dev/v1alpha1
kind: VirtualMachine
metadata: {name: two}
spec:
  power: Off
  disks: [{name: root, container: {image: x}}]
"""


def test_a_problem_names_file_and_line_and_the_other_documents_are_read() -> None:
    found = validate.read(TEXT, "vms.yaml")
    assert [str(p) for p in found.problems] == [
        'vms.yaml:10: spec.disks[0].container.pth: unknown field; did you mean "path"? (given: "/a")'
    ]
    assert [m.metadata.name for m in found.machines] == ["two"]
    assert found.others == ("Secret/key",)


@pytest.mark.parametrize(
    ("word", "power"), [("On", Power.ON), ("off", Power.OFF), ('"Off"', Power.OFF), ("Paused", Power.PAUSED)]
)
def test_bare_power_words_are_good_though_yaml_reads_some_as_booleans(word: str, power: Power) -> None:
    text = TEXT.split("---")[2].replace("power: Off", f"power: {word}")
    assert [m.spec.power for m in validate.read(text).machines] == [power]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: [", 2, "no YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, 'the key "a" is given twice'),
        ("- a", 0, "no Kubernetes object"),
        ("x: &x [*x]", 0, "aliases"),
        ("[" * 500_000, 1, "levels deep"),
        ("[\n" * 400_000, 400_000, "levels deep"),
        ("- " * 400_000, 1, "levels deep"),
        ("a: !!python/object:os.system x", 1, "no YAML"),
        ("\x00", 0, "no YAML"),
        ("x" * (3 * 2**20 + 1), 0, "at most 3145728 characters"),
    ],
)
def test_texts_that_are_no_manifests_are_refused_and_do_no_harm(text: str, line: int, said: str) -> None:
    found = validate.read(text, "f.yaml")
    assert not found.machines
    assert any(said in p.message and p.line == line for p in found.problems), found.problems


def test_aliases_may_not_expand_without_bound() -> None:
    text = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    assert "aliases are expanded" in validate.read(text).problems[0].message


def test_a_manifest_of_one_megabyte_is_answered_quickly() -> None:
    text = yaml.safe_dump_all([manifest(good(cloudInit={"userData": "x" * 1000}), f"vm-{i}") for i in range(800)])
    began = time.monotonic()
    found = validate.read(text)
    assert len(text) > 900_000
    assert len(found.machines) == 800
    assert time.monotonic() - began < 20


def test_user_data_is_never_repeated() -> None:
    secret = "#cloud-config\npassword: hunter2\n"
    found = problems(manifest(good(cloudInit={"userData": secret * 5000})))
    assert found
    assert "hunter2" not in str(found)


def test_a_stored_spec_that_breaks_a_rule_is_told_without_its_secrets() -> None:
    init = {"userData": "password: hunter2", "userDataFrom": {"secret": {"name": "s"}}}
    spec, problem = world.read_spec(good(cloudInit=init, cpu={"count": 0}))
    assert spec is None
    assert problem == (
        "spec.cpu.count: must be at least 1 (given: 0); spec.cloudInit: give only one of userData, userDataFrom"
    )


@pytest.mark.parametrize("name", ["a" * 63, ".".join(["a" * 62] * 4)])
def test_long_names_are_good(name: str) -> None:
    assert isinstance(validate.check(manifest(good(), name)), VirtualMachine)


@pytest.mark.parametrize("name", ["", "a" * 254, "Web", "-a", "a_b"])
def test_names_that_kubernetes_refuses_are_refused(name: str) -> None:
    assert [p.path for p in problems(manifest(good(), name))] == ["metadata.name"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["power", "cpu", "memory", "boot", "disks", "nics", "cloudInit", "probes", "placement"])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(FIELDS, JSON))
def test_no_data_crashes_the_validator(spec: dict[str, Any]) -> None:
    result = validate.check(manifest(spec))
    assert isinstance(result, VirtualMachine) or result


@settings(deadline=None)
@given(st.text(alphabet="abc:-[]{}&*!|>#?,'\" \n\t%@", max_size=200))
def test_no_text_crashes_the_reader(text: str) -> None:
    validate.read(text, "f.yaml")
