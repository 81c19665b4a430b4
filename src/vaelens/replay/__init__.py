"""An image made again from what its PNG says of itself."""
