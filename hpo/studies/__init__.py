"""Studies as people handle them: create, continue, steer, read, export, audit.

The command line, the dashboard and `hpo.load(...)` call these same functions.
"""
