"""Reports: what was measured as tables, and what is to be seen as one page that needs nothing else."""
