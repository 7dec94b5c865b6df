"""Classic BPF programs: which worker a frame goes to, which frames carry DNS, and what a user filters."""
