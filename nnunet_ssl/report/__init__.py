"""A benchmark as a page: the answer first, then what it rests on."""
