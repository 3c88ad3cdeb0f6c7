"""Linux and systemd at arm's length: fds, processes, clocks, doorbells."""
