"""Prompts at prediction."""
