"""HTML, LaTeX and files."""

from flatscale.extras import needs

needs("jinja2", "markupsafe", "vl_convert")
