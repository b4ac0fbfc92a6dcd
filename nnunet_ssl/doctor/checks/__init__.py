"""What the doctor judges: pure functions from a ``Study`` to findings, one file per topic."""
