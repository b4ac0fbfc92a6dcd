"""Unlabelled data: where it lies, how it is preprocessed and how it is loaded beside labelled data."""
