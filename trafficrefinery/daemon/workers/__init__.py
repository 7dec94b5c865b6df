"""The processes below the supervisor."""
