"""Who runs: starts, watches and stops every process; owns ingest and the rings."""
