"""Large arrays of which little may be used: memory is taken where it is touched, in small pages."""

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def untouched(shape: Sequence[int], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros that cost no memory until they are touched.

    NumPy asks for pages of 2 MiB where an array is large. A cache of many slots touches one place
    in each layer for a slot's first token: that took 120 MB and up to half a second in such pages.
    """
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(dtype).itemsize), dtype).reshape(shape)
