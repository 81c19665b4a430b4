"""The local web page: a prompt or an upload, VAEs to compare, a job queue, and the viewer for the results."""
