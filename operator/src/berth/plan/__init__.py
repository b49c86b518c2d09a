"""Pure decisions: observed and desired in, steps with reasons out. No clock, no I/O."""
