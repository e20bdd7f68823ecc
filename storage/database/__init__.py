"""Opened: engine, clock, tables (ours and Optuna's), migrations, records, errors."""
