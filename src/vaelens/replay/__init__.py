"""An image made again from the metadata of its PNG."""
