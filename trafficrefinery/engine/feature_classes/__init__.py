"""Feature classes: found in files, checked, and fused into one compiled step."""
