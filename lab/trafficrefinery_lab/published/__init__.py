"""Datasets from the published tables of session-intervals (Bronzino et al., POMACS 3(3), 2019)."""
