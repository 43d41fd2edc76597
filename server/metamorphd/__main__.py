"""`python -m metamorphd` is the `metamorph` command."""

from metamorphd.cli import main

main()
