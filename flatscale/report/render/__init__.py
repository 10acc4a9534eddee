"""HTML, LaTeX and files."""
