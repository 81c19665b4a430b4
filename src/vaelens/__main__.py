"""`python -m vaelens`, the same as the command `vaelens`."""

from vaelens.cli.main import main

main()
