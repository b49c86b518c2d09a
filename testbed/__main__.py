"""Entry point of `python -m testbed`; everything else lives in cli.py."""

from testbed.cli import main

if __name__ == "__main__":
    main()
