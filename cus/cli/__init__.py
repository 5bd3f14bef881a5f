"""The commands: options, progress, error messages and exit status."""
