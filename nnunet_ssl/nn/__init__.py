"""Network parts that methods add to nnU-Net's planned network."""
