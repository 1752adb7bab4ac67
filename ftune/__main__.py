"""`python -m ftune`, for launchers that start modules."""

from ftune.cli.main import main

main()
