"""What happened, read: trials, lists, the pulse of changes, the audit. Nothing here writes but imports."""
