"""What comes from outside: text read as numbers and paths, wrong values and files recognised, shown on a terminal."""
