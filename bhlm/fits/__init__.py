"""Model and the fits that users hold."""
