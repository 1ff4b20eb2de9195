"""What a run will take from its sources, before it takes anything: shares by stage, rows, epochs."""

from dataclasses import dataclass

from marin.data.dataset import RowDataset
from marin.data.loader import DataLoader


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage of the weights that the run reaches."""

    first_row: int  # of the stream
    first_update: int  # the update, counted from 1, whose batch holds that row
    num_rows: int  # of the run, in this stage
    rows_of_a_block: dict[str, int]  # source -> rows of each whole block


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """One source over the whole run."""

    num_rows: int  # that there are to train on
    rows_used: int  # that the run takes, repetitions counted
    epochs: float  # passes through them in the end, with what the stream gave before the run's first row
    num_conversations: int | None  # of a store of conversations: those that are in rows; None: it is of text
    dropped: int  # conversations left out, since they are longer than a row
    cut: int  # conversations in more than one piece; of texts this is not told


@dataclass(frozen=True, kw_only=True)
class MixtureReport:
    """What the updates of a run take."""

    num_steps: int  # how many they are
    num_rows: int
    block_size: int
    stop_strategy: str
    available_steps: int | None  # updates done when the stream ends; None: no end
    stages: tuple[StageReport, ...]
    sources: dict[str, SourceReport]


def mixture_report(loader: DataLoader, num_steps: int, *, start_step: int = 0) -> MixtureReport:
    """What the updates from `start_step` (counted from 0) to the end of `num_steps` take from each source.

    ValueError where the stream ends before.
    """
    loader.check_num_steps(num_steps)
    mixture, begin, end = loader.mixture, loader.batches.offset(start_step), loader.batches.offset(num_steps)
    before, used, epochs = mixture.rows_used(begin), mixture.rows_used(end), mixture.epochs(end)
    return MixtureReport(
        num_steps=num_steps - start_step,
        num_rows=end - begin,
        block_size=mixture.block_size,
        stop_strategy=mixture.stop_strategy,
        available_steps=loader.num_steps,
        stages=tuple(
            StageReport(
                first_row=stage.start,
                first_update=max(start_step, loader.batches.whole_batches(stage.start)) + 1,
                num_rows=(end if stage.end is None else min(end, stage.end)) - max(begin, stage.start),
                rows_of_a_block=dict(zip(mixture.names, stage.counts.tolist(), strict=True)),
            )
            for stage in mixture.stages
            if stage.start < end and (stage.end is None or stage.end > begin)
        ),
        sources={
            name: _source_report(source, rows_used=used[name] - before[name], epochs=epochs[name])
            for name, source in zip(mixture.names, mixture.sources, strict=True)
        },
    )


def _source_report(source: RowDataset, *, rows_used: int, epochs: float) -> SourceReport:
    of_chat = None if source.store.chat is None else source.stats()
    return SourceReport(
        num_rows=source.num_rows,
        rows_used=rows_used,
        epochs=epochs,
        num_conversations=None if of_chat is None else of_chat.num_documents,
        dropped=0 if of_chat is None else of_chat.dropped,
        cut=0 if of_chat is None else of_chat.cut,
    )


def report_lines(report: MixtureReport) -> list[str]:
    """The report as a table of text: a source a line, its share of the rows in each stage, what the run takes of it."""
    stages = [f"from update {stage.first_update:,}" for stage in report.stages]
    header = ["source", "rows", *stages, "rows used", "epochs"]
    lines = [header]
    for name, source in report.sources.items():
        shares = [f"{stage.rows_of_a_block[name] / report.block_size:.2%}" for stage in report.stages]
        lines.append([name, f"{source.num_rows:,}", *shares, f"{source.rows_used:,}", f"{source.epochs:.4g}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    end = "without end" if report.available_steps is None else f"{report.available_steps:,} updates at most"
    title = (
        f"{report.num_rows:,} rows in {report.num_steps:,} updates; weights met in every {report.block_size:,} rows; "
        f"stop_strategy {report.stop_strategy!r}: {end}"
    )
    table = [
        "  ".join(f"{text:<{width}}" if column == 0 else f"{text:>{width}}" for column, (text, width) in enumerate(row))
        for row in ([(text, width) for text, width in zip(line, widths, strict=True)] for line in lines)
    ]
    return [title, *table, *_conversations(report)]


def _conversations(report: MixtureReport) -> list[str]:
    """A line for each source of conversations: how many are in rows, and what became of those too long for one."""
    return [
        f"{name}: {source.num_conversations:,} conversations, {source.dropped:,} dropped and {source.cut:,} cut, "
        "longer than a row"
        for name, source in report.sources.items()
        if source.num_conversations is not None
    ]
