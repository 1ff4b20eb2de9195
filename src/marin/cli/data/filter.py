"""Keeps the documents that satisfy every rule of the filters, and counts the others by the first rule that they fail.

INPUT is a file, a folder of shards, a glob in quotes, or a step's address; OUTPUT a folder, which gets parquet files
and _funnel.json. Filters apply in the order in which they are given. A filter of your own is named module:Class, and
found in the current folder. Run the same command again after an interruption: what is finished is kept.

With --measure nothing is dropped: OUTPUT gets the signals of every document, for --attributes of later commands, which
then need no text for other thresholds.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from marin.cli.data.inputs import find_input
from marin.cli.data.outputs import check_output, note_bad
from marin.cli.errors import told
from marin.cli.experiment import add_prefix_argument
from marin.cli.output import UsageError, note, print_json, table

if TYPE_CHECKING:
    from marin.processing.filter.filters import Filter
    from marin.processing.pipeline.result import Result

EXAMPLES = """\
  marin data filter documents/ kept/ --preset gopher
  marin data filter documents/ kept/ --preset fineweb --set gopher_quality.min_words=30
  marin data filter documents/ kept/ --filter gopher_quality --rule "gopher.num_words >= 100"
  marin data filter documents/ kept/ --filter bad_words --set bad_words.path=words.txt
  marin data filter documents/ signals/ --preset gopher --measure
  marin data filter documents/ kept/ --attributes signals/ --rule "gopher.num_words >= 100"
  marin data filter --reference                 every filter, with its rules, settings and sources
"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="INPUT", nargs="?", help="documents: files, a folder, a glob, or a step's address"
    )
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="folder of what stays")
    parser.add_argument(
        "--preset",
        "--filter",
        dest="filters",
        metavar="NAME",
        action="append",
        default=[],
        help="a preset or a filter; may be given again",
    )
    parser.add_argument(
        "--rule", metavar="EXPRESSION", action="append", default=[], help="what must hold beside; may be given again"
    )
    parser.add_argument(
        "--set", metavar="FILTER.FIELD=VALUE", action="append", default=[], help="another value; may be given again"
    )
    parser.add_argument(
        "--attributes", metavar="PATH|STEP", action="append", default=[], help="signals or scores of these documents"
    )
    parser.add_argument(
        "--text-column", default="text", metavar="COLUMN", help="the column with the text (text); written as text"
    )
    parser.add_argument(
        "--missing", choices=("error", "drop", "keep"), default="error", help="what no value for a rule means (error)"
    )
    parser.add_argument("--measure", action="store_true", help="write the signals of every document; drop nothing")
    parser.add_argument("--keep-signals", action="store_true", help="write signals with the documents")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (one a CPU); 0: this one alone")
    parser.add_argument("--max-bad", metavar="SHARE", type=float, default=0.01, help="of rows that are none (0.01)")
    parser.add_argument("--reference", action="store_true", help="print every filter and preset")
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    if arguments.reference:
        from marin.processing.filter.reference import filter_reference

        print(filter_reference(), end="")
        return 0
    if arguments.output is None:
        raise UsageError("marin data filter takes INPUT and OUTPUT; --reference lists the filters")
    with told():
        result = _result(arguments)
    dropped = _dropped(result)
    if arguments.json:
        print_json({"output": result.path, "counters": result.counters, "dropped": dropped})
        return 0
    if dropped:
        rows = [(one["rule"], f"{one['documents']:,}", *_example(one)) for one in dropped]
        print(table(rows, ("dropped by", "documents", "for example", "with"), right=(1,)))
    note_bad(result)
    if dropped:
        note(f"samples of each rule: marin data funnel {result.path.rstrip('/')} --samples 3")
    return 0


def _result(arguments: Namespace) -> "Result":
    from marin.processing.filter.config import FilterConfig, SignalsConfig

    path = _path(arguments, arguments.input)
    attributes = tuple(_path(arguments, given) for given in arguments.attributes)
    check_output(arguments.output, [path, *attributes])
    places = {
        "input_path": path,
        "output_path": arguments.output,
        "text_column": arguments.text_column,
        "num_workers": arguments.workers,
        "max_bad": arguments.max_bad,
    }
    filters = _filters(arguments)
    if arguments.measure:
        for flag in ("rule", "attributes", "keep_signals"):
            if getattr(arguments, flag):
                raise UsageError(f"--{flag.replace('_', '-')} says what stays, and --measure drops nothing")
        config = SignalsConfig(**places, filters=filters)
        from marin.processing.filter.run import measure_signals

        return measure_signals(config)
    config = FilterConfig(
        **places,
        filters=filters,
        rules=tuple(arguments.rule),
        attributes=attributes,
        missing=arguments.missing,
        keep_signals=arguments.keep_signals,
    )
    from marin.processing.filter.run import filter_documents

    return filter_documents(config)


def _path(arguments: Namespace, given: str) -> str:
    return find_input(Namespace(prefix=arguments.prefix, path=given, format=None)).path


def _filters(arguments: Namespace) -> "tuple[Filter, ...]":
    from marin.processing.filter.filters import name_of
    from marin.processing.filter.presets import filters_named

    settings = _settings(arguments.set)
    filters = tuple(one for name in arguments.filters for one in filters_named(name, settings))
    unused = sorted(settings.keys() - {name_of(one) for one in filters} - set(arguments.filters))
    if unused:
        raise UsageError(f"--set {unused[0]}....: no such filter is applied; those are {_names(filters) or 'none'}")
    return filters


def _names(filters: "tuple[Filter, ...]") -> str:
    from marin.processing.filter.filters import name_of

    return ", ".join(dict.fromkeys(map(name_of, filters)))


def _settings(given: list[str]) -> dict[str, dict[str, Any]]:
    """{filter: {field: value}} of FILTER.FIELD=VALUE, where values are YAML."""
    import yaml

    from marin.config import yaml_loader

    settings: dict[str, dict[str, Any]] = {}
    for text in given:
        place, equals, value = text.partition("=")
        name, dot, field = place.rpartition(".")
        if not equals or not dot:
            raise UsageError(f"--set {text}: FILTER.FIELD=VALUE is expected, like gopher_quality.min_words=30")
        try:
            settings.setdefault(name, {})[field] = yaml.load(value, Loader=yaml_loader())
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: {value!r} is no YAML") from error
    return settings


def _dropped(result: "Result") -> list[dict[str, Any]]:
    """The rules that dropped something, in the order in which they were asked."""
    return [
        {"rule": rule, "documents": number, "samples": counts.samples.get(rule, [])}
        for counts in result.funnel
        for rule, number in counts.dropped.items()
    ]


def _example(one: dict[str, Any]) -> tuple[str, str]:
    if not one["samples"]:
        return "", ""
    sample = one["samples"][0]
    return sample["id"], ", ".join(f"{name} {_short(value)}" for name, value in sample["numbers"].items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
