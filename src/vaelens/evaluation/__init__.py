"""A data set through VAEs: pictures to rows, rows to results, results to a report."""
