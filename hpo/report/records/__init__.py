"""Records: what is shown, as numbers only, by theme. Capped in size, so that 10,000 trials stay readable."""
