"""Files and output, handled with care: files that may have come from elsewhere, folders that vanish, terminals that close."""
