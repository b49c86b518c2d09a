"""Berth's cost, measured against floors taken in the same run: `make bench`."""
