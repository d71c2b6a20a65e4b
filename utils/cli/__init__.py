"""The command line: its parser and the types of its flags."""
