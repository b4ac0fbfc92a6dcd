"""Loss functions: pure, batched, in float32 or better, finite for every target."""
