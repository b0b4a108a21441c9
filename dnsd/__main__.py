"""`python -m dnsd`."""

from dnsd.cli.app import main

main()
