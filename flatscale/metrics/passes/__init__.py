"""The expensive looks at a network, each run once and reduced by many metrics."""
