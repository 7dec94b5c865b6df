"""How a flow gets its service: the names in its packets, DNS answers, prefixes."""
