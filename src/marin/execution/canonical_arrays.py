"""Canonical forms of numpy's and jax's values, neither of which is imported here: a config that has one has done so."""

import hashlib
import sys
from typing import Any

from marin.execution.annotations import Hint
from marin.execution.canonical_encoder import Encoder, type_name

MAX_ARRAY_BYTES = 1 << 20  # larger arrays belong in a file that a step makes


def dtype_of_class(cls: type) -> Any:
    """The dtype a scalar class stands for (numpy.float32, jax.numpy.float32), or None."""
    numpy = sys.modules["numpy"]
    dtype = getattr(cls, "dtype", None)
    if type(cls).__module__.startswith("jax") and isinstance(dtype, numpy.dtype):
        return dtype
    if issubclass(cls, numpy.generic) and not cls.__subclasses__():
        return numpy.dtype(cls)
    return None


def dtype_name(encoder: Encoder, dtype: Any) -> str:
    """The name of a dtype, with its byte order where that is not the machine's."""
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise encoder.fail(dtype, f"numpy dtype {dtype} has parts; use a plain one")
    return dtype.name if dtype.isnative else dtype.str


def dtype_form(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    """{"$dtype": name}"""
    return {"$dtype": dtype_name(encoder, value)}


def scalar_form(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    """{"$n": [dtype, value]}"""
    plain = value.item()
    if type(plain) in (bool, int, float, str):
        tree = encoder.encode(plain)
    elif type(plain) is bytes or value.dtype.kind in "cmM" or value.dtype.name.startswith("longdouble"):
        tree = encoder.encode(sys.modules["numpy"].asarray(value).astype(value.dtype.newbyteorder("<")).tobytes())
    else:
        raise encoder.fail(value)
    return {"$n": [dtype_name(encoder, value.dtype), tree]}


def array_form(encoder: Encoder, value: Any, hint: Hint | None) -> Any:
    """{"$nd": [dtype, shape, sha256 of the bytes]}"""
    numpy = sys.modules["numpy"]
    try:
        array = numpy.asarray(value)
    except TypeError as error:
        raise encoder.fail(value, f"{type_name(value)} does not convert to a numpy array ({error})") from None
    if array.nbytes > MAX_ARRAY_BYTES:
        raise encoder.fail(
            value, f"an array of {array.nbytes} bytes is more than {MAX_ARRAY_BYTES}; let a step write it to a file"
        )
    name = dtype_name(encoder, array.dtype)
    raw = numpy.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return {"$nd": [name, list(array.shape), hashlib.sha256(raw).hexdigest()]}
