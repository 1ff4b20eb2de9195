"""What other programs take to tokenize parquet files of documents, in CPU seconds; run by bench_tokenize.py.

    python benchmarks/peers/tokenize_peers.py tiktoken|datatrove PARQUET_FOLDER GPT2_FOLDER TOKENIZER_JSON

Runs in an environment of its own, that has the peer. Prints one JSON object: seconds, tokens, MB of text.
"""

import json
import sys
import tempfile
import time
from pathlib import Path


def with_tiktoken(folder: str, gpt2: str, tokenizer_json: str) -> tuple[float, int, float]:
    """Texts read beforehand, encoded one after another into lists, as tiktoken gives them."""
    import pyarrow.parquet as pq
    import tiktoken

    del tokenizer_json
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    ranks = _gpt2_ranks(Path(gpt2))
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    texts = [
        text for file in sorted(Path(folder).glob("*.parquet")) for text in pq.read_table(file)["text"].to_pylist()
    ]
    began = time.process_time()
    tokens = sum(len(encoding.encode_ordinary(text)) for text in texts)
    return time.process_time() - began, tokens, sum(len(text.encode()) for text in texts) / 1e6


def _gpt2_ranks(gpt2: Path) -> dict[bytes, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    vocabulary = json.loads((gpt2 / "encoder.json").read_text(encoding="utf-8"))
    del vocabulary["<|endoftext|>"]
    return {bytes(alphabet[letter] for letter in token): rank for token, rank in vocabulary.items()}


def with_datatrove(folder: str, gpt2: str, tokenizer_json: str) -> tuple[float, int, float]:
    """datatrove's own pipeline: parquet reader, document tokenizer, files of ids."""
    import pyarrow.parquet as pq
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    del gpt2
    texts = [
        text for file in sorted(Path(folder).glob("*.parquet")) for text in pq.read_table(file)["text"].to_pylist()
    ]
    with tempfile.TemporaryDirectory() as output:
        pipeline = [
            ParquetReader(folder, glob_pattern="*.parquet"),
            DocumentTokenizer(
                output_folder=f"{output}/tokens",
                local_working_dir=f"{output}/work",
                tokenizer_name_or_path=tokenizer_json,
                eos_token="<|endoftext|>",
                shuffle_documents=False,
            ),
        ]
        began = time.process_time()
        LocalPipelineExecutor(pipeline=pipeline, logging_dir=f"{output}/log").run()
        seconds = time.process_time() - began
        files = [*Path(f"{output}/tokens").glob("*.ds")]
        tokens = sum(file.stat().st_size for file in files) // 2 - len(texts)
    return seconds, tokens, sum(len(text.encode()) for text in texts) / 1e6


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    seconds, tokens, megabytes = {"tiktoken": with_tiktoken, "datatrove": with_datatrove}[name](*arguments)
    print(json.dumps({"seconds": seconds, "tokens": tokens, "megabytes": megabytes}))
