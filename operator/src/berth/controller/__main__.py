"""`python -m berth.controller`."""

import sys

from berth.controller.main import main

sys.exit(main())
