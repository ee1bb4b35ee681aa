"""How the flow's inner loops are compiled: by Numba, ahead of nothing, kept on disk between processes."""

from numba import njit

# Neurons that are handled together: enough that vector loops pay for their start, few enough for the first cache.
LANES = 256

# `contract` lets a product and a sum become one instruction; sums are never reordered, so that bits don't depend on
# how many networks or threads there are.
compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
