"""The report of an evaluation: tables, text, the HTML page, examples and exports for other programs."""
