"""The command line: `main` runs it, every other module is one of its commands."""
