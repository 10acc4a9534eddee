"""`python -m flatscale` is the `flatscale` command."""

from flatscale.cli import main

main()
