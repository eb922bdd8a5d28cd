"""Prior families, and which parameter gets which."""
