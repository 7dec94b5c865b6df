"""Feature classes run and timed on packets: what profiles, checks and the daemon's cost samples share."""
