"""What every room needs of the system: files, child processes, progress of long work, plugins."""
