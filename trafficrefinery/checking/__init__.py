"""What `features check` does: a feature class on generated traffic, run in every way that there is."""
