"""Real things for tests: a PostgreSQL server, a TCP proxy, the `hpo` command, Chromium."""
