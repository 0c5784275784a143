"""`python -m genrecall` is the command `genrecall`."""

from genrecall.cli.main import main

main()
