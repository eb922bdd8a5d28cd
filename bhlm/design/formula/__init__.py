"""Formula text -> terms."""
