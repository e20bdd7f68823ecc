"""Data: what there is, how it is split, prepared and handed out in batches."""
