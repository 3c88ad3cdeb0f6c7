"""Audio in: source connections, mounts, the chunker and its clock."""
