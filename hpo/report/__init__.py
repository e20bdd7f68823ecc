"""Reports of studies: `write_report` (HTML), `write_markdown`, `write_pngs`."""
