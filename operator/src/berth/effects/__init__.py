"""The only place where the world is touched; ports.py says what can be asked of it."""
