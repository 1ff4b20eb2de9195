"""Shows what a token store holds, or one of its documents, token by token.

Without N: counts, vocabulary, shards. With N, counted from 0 over all shards: the document with a bar between tokens;
bytes that are a part of a character stand as \\xNN. Any document is reached at once.

STORE is a token store, by path or by the address of the step that made it.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from marin.cli.data.inputs import add_path_arguments, find_input
from marin.cli.errors import told
from marin.cli.experiment import hint
from marin.cli.output import UsageError, note, print_json

EXAMPLES = """\
  marin tokenize show tokenized/python/train            what is in the store
  marin tokenize show tokenized/python/train 10000000   document 10,000,000, token by token
  marin tokenize show tokens/ 0 --text --tokenizer my_tokenizer
"""

BAR = "│"


def add_arguments(parser: ArgumentParser) -> None:
    add_path_arguments(parser, "STORE|STEP")
    parser.add_argument("number", metavar="N", nargs="?", type=int, help="a document, counted from 0")
    parser.add_argument("--text", action="store_true", help="its text alone, without bars")
    parser.add_argument("--tokenizer", metavar="DIR", help="of the store, where no record tells it")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.cli.data.token_rows import TokenRows

    found = find_input(arguments)
    if not found.is_token_store:
        raise UsageError(f"{found.path} is no token store: it has no store.json. For documents: marin data head")
    if arguments.number is None:
        if arguments.text:
            raise UsageError("--text takes the number of a document: marin tokenize show STORE 0 --text")
        return _summary(found.path, arguments)
    rows = TokenRows(found.path, arguments)
    store = rows.store
    if not 0 <= arguments.number < store.num_documents:
        raise UsageError(f"document {arguments.number}: {found.path} has documents 0 to {store.num_documents - 1}")
    row = rows.row(arguments.number)
    ids = store.document(arguments.number).tolist()
    tokens = None if rows.tokenizer is None else [shown_token(rows.tokenizer, token_id) for token_id in ids]
    if arguments.json:
        print_json({"path": found.path, "row": arguments.number, **row, "ids": ids, "pieces": tokens})
    elif tokens is None:
        print(" ".join(map(str, ids)))
    elif arguments.text:
        print(row["text"])
    else:
        note(f"document {arguments.number}: {row['id']}, source {row['source'] or '-'}, {len(ids):,} tokens")
        print(BAR.join(tokens))
    return 0


def shown_token(tokenizer: Any, token_id: int) -> str:
    """What a token stands for; bytes that are no whole characters as \\xNN."""
    return tokenizer.token_bytes[token_id].decode("utf-8", errors="backslashreplace")


def _summary(path: str, arguments: Namespace) -> int:
    from marin.cli.data.token_rows import recorded_tokenizer
    from marin.data.store import TokenStore

    with told():
        store = TokenStore.open(path)
    values = {
        "documents": store.num_documents,
        "tokens": store.num_tokens,
        "text_bytes": store.num_bytes,
        "bytes_per_token": round(store.num_bytes / store.num_tokens, 4),
        "vocab_size": store.vocab_size,
        "dtype": store.dtype.name,
        "tokenizer_digest": store.tokenizer_digest,
        "eos_id": store.eos_id,
        "trained_tokens": store.num_trained,
        "shards": len(store.shards),
    }
    if arguments.json:
        print_json({"path": path, **values})
        return 0
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name.replace('_', ' '):<{width}}  {f'{value:,}' if isinstance(value, int) else value}")
    tokenizer = arguments.tokenizer or (None if recorded_tokenizer(store.path.absolute()) else "DIR")
    words = ["marin", "tokenize", "show", path, "0", *(["--tokenizer", tokenizer] if tokenizer else [])]
    note(f"Next: {hint(words, arguments)}")
    return 0
