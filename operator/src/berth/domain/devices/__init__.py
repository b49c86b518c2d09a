"""One small file per device: model to XML element. No connection, clock or disk."""
