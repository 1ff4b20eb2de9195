"""Looks at the installation, the machine and the store, and says what would stop a run, and what to do about it.

+ fine   ~ worth knowing   ! would stop or endanger a run: then the exit code is 3
"""

from argparse import ArgumentParser, Namespace

from marin.cli.experiment import add_prefix_argument, prefix_of
from marin.cli.output import note, paint, print_json

EXAMPLES = """\
  marin doctor
  marin doctor --prefix s3://bucket/exp        also tries what registers need of that store
"""

_MARKS = {"ok": ("+", "green"), "note": ("~", "yellow"), "bad": ("!", "red")}


def add_arguments(parser: ArgumentParser) -> None:
    add_prefix_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: Namespace) -> int:
    from marin.execution.doctor import BAD, examine

    prefix = prefix_of(arguments)
    findings, section = [], ""
    for finding in examine(prefix):
        findings.append(finding)
        if arguments.json:
            continue
        if finding.section != section:
            section = finding.section
            print(paint(f"{section}  {prefix}" if section == "store" else section, "bold"))
        mark, color = _MARKS[finding.verdict]
        print(f"  {paint(mark, color)} {finding.what}: {finding.found}", flush=True)
        if finding.advice:
            print(f"      {finding.advice}")
    bad = [finding for finding in findings if finding.verdict == BAD]
    if arguments.json:
        print_json({"prefix": prefix, "is_ok": not bad, "findings": [finding.to_json() for finding in findings]})
    else:
        note(f"{len(bad)} thing{'s' * (len(bad) != 1)} to mend" if bad else "nothing to mend")
    return 3 if bad else 0
