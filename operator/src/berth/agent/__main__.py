"""`python -m berth.agent`: the process of the agent's container."""

import sys

from berth.agent.main import main
from berth.errors import InvalidSpec

try:
    main()
except InvalidSpec as error:
    sys.exit(f"berth-agent: {error}")
