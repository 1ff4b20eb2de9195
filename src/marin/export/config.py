"""What to export; importable without a tensor library."""

from dataclasses import dataclass

MIN_PROBE_LENGTH = 16
"""A shorter probe could not tell one rule for positions from another."""


MAX_SHARD_BYTES = 5_000_000_000
"""As much as the Hugging Face library puts into one file of weights."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A training folder, its tokenizer, and where the export goes."""

    train_path: str
    """Folder of a training run: model.json and checkpoints/."""
    tokenizer_path: str
    """Folder of the tokenizer that the run was trained with."""
    output_path: str
    """Folder of the export; what it holds of an earlier export is replaced."""
    checkpoint: str | None = None
    """Checkpoint within train_path, like checkpoints/step-00000500; None: the one that training ended with."""
    probe_length: int = 256
    """Tokens in each row of the probe that verifies the export, at least 16; the model's seq_len bounds it."""
    average: bool = False
    """Export the running average of the parameters (TrainerConfig.ema_beta) instead of the parameters."""
    adapter_alone: bool = False
    """Of a run that trained a LoRA adapter, export the adapter in the format of the peft library, without the model.
    False exports the model with the adapter merged in."""
    max_shard_bytes: int = MAX_SHARD_BYTES
    """Weights that are more than this are written as several files with an index. One tensor is never cut."""

    def __post_init__(self):
        if self.max_shard_bytes < 1:
            raise ValueError(f"max_shard_bytes must be 1 or more, got {self.max_shard_bytes}")
        if self.probe_length < MIN_PROBE_LENGTH:
            raise ValueError(
                f"probe_length={self.probe_length} must be at least {MIN_PROBE_LENGTH}: a shorter probe could not tell "
                "one rule for positions from another"
            )
