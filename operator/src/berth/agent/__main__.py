"""`python -m berth.agent`: the process of the agent's container."""

import gc
import sys


def run() -> None:
    gc.disable()  # nothing imported is garbage, and looking for it is an eighth of the start; main turns it on
    from berth.agent.main import main
    from berth.errors import InvalidSpec

    try:
        main()
    except InvalidSpec as error:
        sys.exit(f"berth-agent: {error}")


run()
