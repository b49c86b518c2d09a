"""The command line: `berth`, also `kubectl vm`."""
