"""One file a kind of measure: what it is, reducing what a pass returned."""
