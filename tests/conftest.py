"""For every test: torch on one thread. More of them, on the small tensors here, only wait for each other."""

import torch

torch.set_num_threads(1)
