"""CUDA: whether there is a GPU, its memory by either of two libraries, and what of it is used."""
