"""A test encoder and a test player, as commands."""
