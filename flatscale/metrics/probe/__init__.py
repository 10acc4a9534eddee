"""A network held against points: shards, observers, microbatches, everything put back after."""
