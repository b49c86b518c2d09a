"""The programs a cluster needs: pinned versions, and where to get them. cli.py and reconcile.py call ensure.py."""
