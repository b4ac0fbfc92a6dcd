"""Trainers: one abstract adapter to nnU-Net and a short final class for each method."""
