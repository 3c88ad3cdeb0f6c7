"""What an operator sees: the status page and its JSON."""
