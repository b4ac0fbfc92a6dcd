"""Making and joining datasets: splits, merging, plans."""
