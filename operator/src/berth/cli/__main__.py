"""`python -m berth.cli`: the same as `berth`."""

from berth.cli import main

if __name__ == "__main__":
    main()
