"""What the operator and the data plane agree on: names, HTTP paths, settings files, the mirroring table.

Standard library only, so that the operator's image can import it without the data plane's libraries.
"""
