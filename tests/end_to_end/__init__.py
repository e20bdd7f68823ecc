"""What people do with `hpo`, done with the real command."""
