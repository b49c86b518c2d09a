"""Kopf handlers and the level-based reconcile of each kind."""
