"""`python -m flatscale` is the `flatscale` command."""

from flatscale.cli.commands import main

main()
