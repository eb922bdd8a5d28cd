"""Frequentist inference on a RemlFit, one method per file, all of it from the moments."""
