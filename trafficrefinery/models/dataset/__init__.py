"""Tables of labelled session-intervals: from traces with labels."""
