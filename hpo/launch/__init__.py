"""Start workers elsewhere: a launcher only starts and stops `hpo worker`; they meet in the database."""
