"""A notebook, executed for real and without a window."""
