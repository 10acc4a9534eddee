"""The tables of a study's analysis, each column declared once."""
