"""What a report shows: sections, tables, the numbers behind the charts."""
