"""How the flow's inner loops are compiled: by Numba, and kept on disk between processes."""

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numba
from numba import config, njit, types
from numba.extending import intrinsic

# Neurons that are handled together: enough that vector loops pay for their start, few enough for the near caches. With
# 512, rows would lie 4,096 bytes apart, and their numbers for the same neurons in the same few lines of that cache.
LANES = 480


def _cache_folder() -> str:
    """Where compiled code is kept: a folder for each state of this package's sources.

    Numba itself compares only the file of the function that is called, and so would go on with old code after an edit
    of a module that the function imports.
    """
    folder = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    base = Path(config.CACHE_DIR) if config.CACHE_DIR else folder / "__pycache__"
    if not os.access(base if base.exists() else folder, os.W_OK):
        base = Path.home() / ".cache" / "twophase"
    return str(base / f"flow-{hashlib.sha256(sources).hexdigest()[:16]}")


def environment() -> dict[str, str]:
    """On what networks are integrated, all that their last bits may depend on."""
    return {"device": f"cpu ({config.CPU_NAME or platform.machine()})", "numba": numba.__version__}


def compiled(function: Callable) -> Callable:
    """Compile a function at its first call.

    ``contract`` lets a product and a sum become one instruction. Sums keep their order.
    """
    return _compile(function, {"contract"})


def inlined(function: Callable) -> Callable:
    """Compile a loop over a tile's lanes into its callers: a call with many rows takes longer than a loop's start."""
    return _compile(function, {"contract"}, forceinline=True)


def summing(function: Callable) -> Callable:
    """Compile a function that takes sums over a tile's lanes, in vectors.

    The compiler chooses the order, one for all networks, however many there are, and whatever the number of threads.
    Arrays that are written in the loop may not overlap others: for such it keeps a loop with another order.
    """
    return _compile(function, {"contract", "reassoc", "nsz"}, forceinline=True)


def _compile(function: Callable, fastmath: set[str], forceinline: bool = False) -> Callable:
    before, config.CACHE_DIR = config.CACHE_DIR, _CACHE_FOLDER
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath, forceinline=forceinline)(function)
    finally:
        config.CACHE_DIR = before


@intrinsic
def uncounted(typing, arrays):
    """A named tuple's arrays without reference counts, in compiled code; somebody else has to keep them alive.

    Numba counts a reference for each slice that it takes, by two locked instructions: 15 % of an integration's time.
    """

    def generate(context, builder, signature, arguments):
        (result,) = arguments
        for place, kind in enumerate(signature.args[0]):
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder, builder.extract_value(result, place))
                array.meminfo = array.meminfo.type(None)
                array.parent = array.parent.type(None)
                result = builder.insert_value(result, array._getvalue(), place)
        return result

    return arrays(arrays), generate


_CACHE_FOLDER = _cache_folder()
