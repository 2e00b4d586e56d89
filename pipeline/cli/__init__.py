"""The command line, by command."""
