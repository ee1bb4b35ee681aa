"""The kernel engine beside its peers: one worker a peer, and what measures them. Started by ``benchmarks/entk.py``."""
