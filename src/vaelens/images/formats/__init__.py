"""What Pillow doesn't tell of single file formats: their chunks and segments, and whether all pixels are there."""
