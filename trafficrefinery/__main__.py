"""`python -m trafficrefinery`: the command line, without an installed command."""

from .cli.main import main

main()
