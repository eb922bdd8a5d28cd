"""Formula text + table -> named columns, the same on every engine."""
