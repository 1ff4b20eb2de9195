"""Where a model in the Hugging Face format lies; importable without a tensor library."""

import os
from pathlib import Path

CONFIG_FILE = "config.json"
"""The file that makes a folder one of a model."""


def hf_folder(path: str | Path) -> Path:
    """The folder of a model: `path` itself, or for `hf://organization/name[@revision]` that of the local cache.

    The cache is where the Hugging Face tools download to (HF_HUB_CACHE, else HF_HOME/hub); nothing is downloaded here.
    """
    if not str(path).startswith("hf://"):
        return Path(path)
    name, _, revision = str(path).removeprefix("hf://").partition("@")
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub"))
    repository = cache / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    folder = repository / "snapshots" / commit
    if not commit or not folder.is_dir():
        raise FileNotFoundError(
            f"{path} is not in the local cache ({repository}). Download it (`hf download {name}`), or give the folder "
            "of a model."
        )
    return folder
