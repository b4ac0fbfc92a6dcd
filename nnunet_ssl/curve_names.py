"""Names of our curves in nnU-Net's log, for who writes and who draws them; nothing is imported here."""

from __future__ import annotations

OURS = "ssl"  # what all our curves begin with
TERM = "ssl/"  # loss terms
WEIGHT = "ssl_weight/"  # and their weights
PREFIX = "ssl_monitor/"  # of the pseudo-label monitor's curves
REFERENCE = "ssl_reference/"  # of what a curve is to be compared with
COVERAGE, CONFIDENCE, AGREEMENT = "coverage", "confidence", "agreement"
BY_LABEL, HIDDEN_DICE = "coverage_by_label", "hidden_dice"
COLLAPSED = "WARNING: the pseudo-labels may have collapsed:"  # begins a line of the training log
