"""Feature classes compiled: from the source of their methods to the functions that the packet loop calls."""
