"""Drawings: Plotly figures of the records, by theme. Text from users is always shown literally."""
