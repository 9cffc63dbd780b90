"""`python -m biva` is the command `biva`, without an install, from the project's root."""

from biva.cli import main

main()
