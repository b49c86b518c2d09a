"""The chart's values, schema and files agree. Rendering it with Helm is a test of the cluster stage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from berth.agent.settings import Settings as AgentSettings
from berth.controller.settings import Settings as ControllerSettings

CHART = Path(__file__).parents[3] / "charts" / "berth"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = {path.relative_to(CHART).as_posix(): path.read_text() for path in CHART.rglob("templates/**/*.*")}


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    def keys(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> None:
        known = schema.get("properties")
        if known is None:
            return
        assert set(values) | {"global"} == set(known) | {"global"}, path
        for name, value in values.items():
            if isinstance(value, dict):
                keys(value, known[name], f"{path}.{name}")

    keys(VALUES, SCHEMA)


def test_every_value_has_a_comment_or_speaks_for_itself() -> None:
    text = (CHART / "values.yaml").read_text()
    assert text.count("#") > 25


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        ("templates/agent/daemonset.yaml", AgentSettings),
        ("templates/controller/deployment.yaml", ControllerSettings),
    ],
)
def test_every_variable_is_a_setting(template: str, settings: Any) -> None:
    given = set(re.findall(r"name: BERTH_([A-Z_]+),", TEMPLATES[template]))
    unread = {"NAMESPACE", "POD_NAME"} if settings is AgentSettings else set()
    assert {name.lower() for name in given - unread} <= set(settings.model_fields)


def test_the_chart_holds_the_generated_definitions() -> None:
    names = {path.name for path in (CHART / "files" / "crds").iterdir()}
    assert names == {path.name for path in (CHART.parents[1] / "crds").iterdir()}
    assert '"helm.sh/resource-policy" "keep"' in TEMPLATES["templates/crds.yaml"]


def test_the_controller_may_not_read_users_secrets() -> None:
    cluster_wide = TEMPLATES["templates/controller/rbac.yaml"].split("kind: RoleBinding")[0].split("kind: Role\n")[0]
    assert "resources: [secrets" not in cluster_wide
    assert '"*"' not in TEMPLATES["templates/controller/rbac.yaml"]


def test_the_agent_has_no_role() -> None:
    bound = [text for name, text in TEMPLATES.items() if "RoleBinding" in text]
    assert bound
    assert not [text for text in bound if "name: berth-agent" in text]
    assert "automountServiceAccountToken: false" in TEMPLATES["templates/agent/daemonset.yaml"]
