"""Reports: tables of results, and one-file HTML pages with the viewer."""
