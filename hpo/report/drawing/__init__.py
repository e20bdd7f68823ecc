"""The pictures themselves, by theme; `hpo.report.figures` lists them all."""
