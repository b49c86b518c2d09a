"""The agent's settings out of the environment: defaults, and every wrong variable named at once."""

from __future__ import annotations

import pytest

from berth.agent import settings
from berth.errors import InvalidSpec

GOOD = {"BERTH_NODE_NAME": "node-a", "BERTH_HOST_IP": "10.0.0.7"}


def test_two_variables_suffice() -> None:
    chosen = settings.from_environment({**GOOD, "PATH": "/bin", "BERTH_CONTROLLER_SERVICE_HOST": "10.96.0.9"})
    assert (chosen.node_name, chosen.host_ip, chosen.agent_port) == ("node-a", "10.0.0.7", 8553)


def test_an_empty_variable_is_one_not_given() -> None:
    assert settings.from_environment({**GOOD, "BERTH_AGENT_PORT": ""}).agent_port == 8553


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ["BERTH_NODE_NAME", "BERTH_HOST_IP"]),
        ({**GOOD, "BERTH_HOST_IP": "0.0.0.0.0"}, ["BERTH_HOST_IP", "0.0.0.0.0"]),
        ({**GOOD, "BERTH_AGENT_PORT": "99999"}, ["BERTH_AGENT_PORT", "65535", "99999"]),
        ({**GOOD, "BERTH_ENROLL_URL": "http://x"}, ["BERTH_ENROLL_URL", "https"]),
        ({**GOOD, "BERTH_LOG_LEVEL": "LOUD", "BERTH_WORKERS": "none"}, ["BERTH_LOG_LEVEL", "BERTH_WORKERS"]),
    ],
)
def test_a_wrong_variable_is_named_with_limit_and_value(variables: dict[str, str], said: list[str]) -> None:
    with pytest.raises(InvalidSpec) as wrong:
        settings.from_environment(variables)
    assert all(word in str(wrong.value) for word in said)
