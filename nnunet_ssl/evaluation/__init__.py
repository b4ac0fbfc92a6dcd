"""Measuring predictions against references."""
