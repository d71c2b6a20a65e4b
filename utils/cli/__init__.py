"""The command line: its parser, made from the fields of the options."""
