"""Printed styles, tables, JSON, the dashboard."""
