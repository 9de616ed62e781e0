"""HTML page and tables of a benchmark."""
