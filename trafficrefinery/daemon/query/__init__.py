"""What a running daemon answers over HTTP: metrics, health, and the flows of the last closed interval."""
