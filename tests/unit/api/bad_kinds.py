"""Everything that must be refused, of all kinds: rows for both tests, of the CLI's words and of a real API server's."""

from __future__ import annotations

import pytest

from tests.unit.api.bad_inputs import BAD
from tests.unit.api.bad_migrations import BAD_MIGRATIONS
from tests.unit.api.bad_networks import BAD_NETWORKS
from tests.unit.api.bad_snapshots import BAD_SNAPSHOTS

_KINDS = {"VirtualMachine": BAD, "Network": BAD_NETWORKS, "Migration": BAD_MIGRATIONS, "Snapshot": BAD_SNAPSHOTS}
ROWS = [pytest.param(kind, bad, id=f"{kind}-{bad.name}") for kind, rows in _KINDS.items() for bad in rows]
