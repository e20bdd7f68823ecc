"""What lies beside the database: artifacts, checkpoints, kept files and how long they stay."""
