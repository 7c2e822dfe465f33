"""`python -m mailarray`: what the launcher starts its processes with."""

from mailarray.cli.main import main

main()
