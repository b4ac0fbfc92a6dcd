"""The label-efficiency benchmark: trainers, numbers of labels and seeds on one dataset."""
