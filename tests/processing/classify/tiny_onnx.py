"""A model of a few weights in ONNX form, written field by field: protocol buffers are simple enough for that.

    score of a text = mean over its tokens of embedding[token] @ head

The field numbers are those of onnx.proto (ONNX 1.x, IR version 8, operators of version 13).
"""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3, "fair": 4}
_FLOAT, _INT64 = 1, 7
_ATTRIBUTE_INT, _ATTRIBUTE_INTS = 2, 7


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _node(operator: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
    node = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, operator)
    for name, value in attributes.items():
        if isinstance(value, int):
            attribute = _bytes(1, name) + _number(3, value) + _number(20, _ATTRIBUTE_INT)
        else:
            attribute = _bytes(1, name) + b"".join(_number(8, item) for item in value) + _number(20, _ATTRIBUTE_INTS)
        node += _bytes(5, attribute)
    return _bytes(1, node)


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = _FLOAT if values.dtype == np.float32 else _INT64
    dims = b"".join(_number(1, size) for size in values.shape)
    return _bytes(5, dims + _number(2, kind) + _bytes(8, name) + _bytes(9, values.tobytes()))


def _value(field: int, name: str, kind: int, dims: list[str | int]) -> bytes:
    shape = b"".join(_bytes(1, _number(1, dim) if isinstance(dim, int) else _bytes(2, dim)) for dim in dims)
    tensor_type = _number(1, kind) + _bytes(2, shape)
    return _bytes(field, _bytes(1, name) + _bytes(2, _bytes(1, tensor_type)))


def write_tiny_onnx(folder: Path, embedding: np.ndarray, head: np.ndarray) -> None:
    """model.onnx and tokenizer.json: embedding (tokens, dim), head (dim, outputs), both float32."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = b"".join(
        [
            _node("Gather", ["embedding", "input_ids"], "vectors"),
            _node("Cast", ["attention_mask"], "mask", to=_FLOAT),
            _node("Unsqueeze", ["mask", "last"], "wide_mask"),
            _node("Mul", ["vectors", "wide_mask"], "masked"),
            _node("ReduceSum", ["masked", "middle"], "sums", keepdims=0),
            _node("ReduceSum", ["wide_mask", "middle"], "counts", keepdims=0),
            _node("Div", ["sums", "counts"], "means"),
            _node("MatMul", ["means", "head"], "logits"),
            _bytes(2, "tiny"),
            _tensor("embedding", embedding),
            _tensor("head", head),
            _tensor("last", np.array([2], np.int64)),
            _tensor("middle", np.array([1], np.int64)),
            _value(11, "input_ids", _INT64, ["texts", "tokens"]),
            _value(11, "attention_mask", _INT64, ["texts", "tokens"]),
            _value(12, "logits", _FLOAT, ["texts", head.shape[1]]),
        ]
    )
    model = _number(1, 8) + _bytes(8, _bytes(1, "") + _number(2, 13)) + _bytes(7, graph)
    (folder / "model.onnx").write_bytes(model)
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
