"""Prompts at prediction, and trained models as folders of their own."""
