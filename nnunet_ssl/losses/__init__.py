"""Loss functions: pure, batched, in float32, finite for every target."""
