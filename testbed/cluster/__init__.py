"""The built-in cluster: gather what runs, plan what is missing, apply it. cli.py calls reconcile.py and teardown.py."""
