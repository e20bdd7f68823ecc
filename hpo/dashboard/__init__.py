"""Studies in a web browser."""
