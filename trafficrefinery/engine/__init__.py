"""Feature classes to compiled steps, and packets to the states of flows."""
