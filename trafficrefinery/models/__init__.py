"""Sessions, labelled datasets, training, and inference."""
