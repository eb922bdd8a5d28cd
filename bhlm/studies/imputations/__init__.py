"""Several fits of one model to imputed data, pooled by Rubin's rules."""
