"""Several models side by side: the table for a paper."""
