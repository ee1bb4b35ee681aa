"""The phase diagram of two-layer networks: theory, grids, fits and orientations (Luo 2021, arXiv 2007.07497)."""
