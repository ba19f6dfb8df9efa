"""The command line of vecstore."""
