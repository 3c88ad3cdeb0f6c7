"""StreamMachine: a live-radio streaming appliance with a shared-memory rewind buffer."""

__version__ = "0.1.0"
