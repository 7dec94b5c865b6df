"""Targets, sessions, labelled datasets, training, and inference."""
