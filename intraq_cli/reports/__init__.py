"""A run as a page to look at: charts, tables, and the figures that they show."""
