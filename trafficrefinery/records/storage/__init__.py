"""Files and spools on the disk that survive a crash, rotate, and are removed in time."""
