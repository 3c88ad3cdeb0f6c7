"""The shared-memory rewind ring: layout, its one writer, its many readers, and the tables beside it."""
