"""Sans-IO formats and conversations: bytes in, events out; no socket, clock, log or event loop."""
