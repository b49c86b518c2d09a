"""What people write and read: pydantic models of Berth's kinds, and the words controller and agent exchange."""
