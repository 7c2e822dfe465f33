"""The `mailarray` command line: parsing and messages; the work is done elsewhere."""
