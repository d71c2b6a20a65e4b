"""The options of every command: frozen dataclasses, and the kinds of values that their fields take."""
