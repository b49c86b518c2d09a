"""Settings: defaults that work, and every wrong variable named at once."""

from __future__ import annotations

import pytest

from berth.api.order import Emulation
from berth.controller.settings import from_environment
from berth.errors import InvalidSpec


def test_defaults_and_names() -> None:
    settings = from_environment({"BERTH_NAMESPACE": "vms", "BERTH_EMULATION": "Auto", "BERTH_LABEL_NODES": "false"})
    assert settings.server_names[0] == "berth-controller.vms.svc"
    assert settings.cluster().emulation is Emulation.AUTO
    assert settings.label_nodes is False
    assert settings.cluster().cpu_floor == "x86-64-v2"
    assert from_environment({"BERTH_CPU_FLOOR": "x86-64-v3"}).cluster().cpu_floor == "x86-64-v3"
    assert settings.pod_name


def test_wrong_variables_are_named() -> None:
    with pytest.raises(InvalidSpec) as error:
        from_environment({"BERTH_EMULATION": "Sometimes", "BERTH_AGENT_PORT": "high", "BERTH_IMAGE": ""})
    with pytest.raises(InvalidSpec, match=r"BERTH_CPU_FLOOR.*x86-64-v9"):
        from_environment({"BERTH_CPU_FLOOR": "x86-64-v9"})
    for part in ("BERTH_EMULATION", "Sometimes", "BERTH_AGENT_PORT", "high"):
        assert part in str(error.value)
