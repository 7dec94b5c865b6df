"""What the daemon's processes hand to each other through shared memory."""
