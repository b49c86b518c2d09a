"""`python -m testbed.policy`: see engine.py."""

import sys

from testbed.policy.engine import main

main(sys.argv[1:])
