"""Audio out: accept, parse, route, and the fan-out loop from shared memory to sockets."""
