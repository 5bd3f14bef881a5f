"""The commands: options, progress, what an error prints and the exit status."""
