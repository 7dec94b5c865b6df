"""`python -m trafficrefinery`: the command line, without an installed command."""

from trafficrefinery.cli.main import main

main()
