"""The records themselves, by theme; `hpo.report.data` lists them all."""
