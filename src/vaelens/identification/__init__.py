"""What a file is, by its content: VAEs by their weights, images by their metadata and pixels."""
