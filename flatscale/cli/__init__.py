"""The `flatscale` command."""
