"""The study file and what follows from it alone: its schema, reading it, the plan, seeds, names."""
