"""A dataset through VAEs: images to rows, rows to results, results to a report."""
