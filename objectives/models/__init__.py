"""Models: linear, MLP, CNN, or the user's own."""
