"""Records to pages: report.md, and the same as one self-contained report.html.

The Markdown is written first and is the whole report; the HTML is that Markdown with the pictures put in. So the two
cannot differ, and a report can be read in a terminal, in a repository and in a browser.

A page may turn out to be wrong after it was written. It looks for a script that the executor then puts beside it, in
the step's `.exec`, and which has the page say so; the page itself is never changed.
"""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from marin.io.atomic import write_text
from marin.report.collect import Collected, StepRecord, collect
from marin.report.config import ReportConfig
from marin.report.dag import dag_picture
from marin.report.plots import loss_curve, score_bars
from marin.report.tables import interval, seconds, size, table, with_error


def write_report(config: ReportConfig) -> Path:
    """Collect the records and write the pages; returns the path of report.html.

    Raises FileNotFoundError naming the path where a step that the report is about left no record.
    """
    data = collect(config.steps)
    pictures = _pictures(data)
    markdown = _markdown(config.title, data, pictures)
    folder = Path(config.output_path)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_text(folder / name, picture)
    write_text(folder / "report.md", markdown)
    html = folder / "report.html"
    write_text(html, page(config.title, markdown, pictures))
    print(f"report: {html}", flush=True)
    return html


def _pictures(data: Collected) -> dict[str, str]:
    pictures = {"steps.svg": dag_picture(data.lineage)}
    if data.metrics:
        pictures["loss.svg"] = loss_curve(data.metrics)
    by_metric: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for task, metric, entry in _scores(data.evaluation):
        by_metric.setdefault(metric, []).append((task, entry))
    for metric in ("bits_per_byte", "acc_mutual_info", "acc"):
        if rows := by_metric.get(metric):
            better = "higher" if rows[0][1]["higher_is_better"] else "lower"
            pictures[f"scores-{metric}.svg"] = score_bars(rows, label=metric.replace("_", " "), better=better)
    return pictures


def _scores(evaluation: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(task, metric, {value, stderr, ...}) of every score in a results.json."""
    tasks = evaluation.get("tasks", {})
    return [(task, metric, entry) for task, result in tasks.items() for metric, entry in result["metrics"].items()]


def _markdown(title: str, data: Collected, pictures: Mapping[str, str]) -> str:
    sections = [
        f"# {title}\n",
        _banner(data),
        _headline(data),
        _scores_section(data, pictures),
        _training_section(data, pictures),
        _export_section(data),
        _samples_section(data),
        _steps_section(data),
        _config_section(data),
        _environment_section(data.lineage),
    ]
    return "\n".join(section for section in sections if section)


def _banner(data: Collected) -> str:
    """What a reader must know before any number."""
    if not data.struck_out:
        return ""
    lines = []
    for found in data.struck_out:
        reason = escape(" ".join(found.reason.split()), quote=False)
        lines.append(f'> - **{found.name}** @{found.digest[:10]}, struck out {found.when}: "{reason}"')
    head = (
        "> **Do not trust the numbers of this page.** When it was written, it was known to be built on wrong outputs:"
    )
    return "\n".join([head, ">", *lines, ""])


def _headline(data: Collected) -> str:
    tasks = data.evaluation.get("tasks", {})
    lines = []
    for comparison in data.evaluation.get("comparisons", []):
        ends = comparison["ci95"]
        between = f", 95% from {ends[0]:+.4f} to {ends[1]:+.4f}" if ends else ""
        error = "error unknown" if comparison["stderr"] is None else f"± {comparison['stderr']:.4f}"
        metric = comparison["metric"].replace("_", " ")
        lines.append(
            f"- **{comparison['model']}** beside **{comparison['baseline']}**: {comparison['difference']:+.4f} {error} "
            f"{metric} (paired over {comparison['n']} {comparison['unit']}{between}): {comparison['verdict']}"
        )
    for task, result in tasks.items():
        if result.get("chance") is None:
            continue
        shown = [
            f"{metric} {with_error(entry)}"
            for metric, entry in result["metrics"].items()
            if metric in ("acc_mutual_info", "acc")
        ]
        lines.append(f"- **{task}**: {', '.join(shown)} (n = {result['n']}; chance is {result['chance']:.4f})")
    return "\n".join(lines) + "\n" if lines else ""


def _scores_section(data: Collected, pictures: Mapping[str, str]) -> str:
    rows = [
        [
            task,
            metric,
            with_error(entry),
            interval(entry),
            str(data.evaluation["tasks"][task]["n"]),
            "higher" if entry["higher_is_better"] else "lower",
        ]
        for task, metric, entry in _scores(data.evaluation)
    ]
    if not rows:
        return ""
    notes = [f"- {task}: {note}" for task, r in data.evaluation["tasks"].items() for note in r.get("notes", [])]
    images = [f"![{name}]({name})" for name in pictures if name.startswith("scores-")]
    header = ["task", "metric", "value ± standard error", "95% interval", "n", "better"]
    return "\n".join(["## Scores\n", table(header, rows), "", *images, "", *notes, ""])


def _training_section(data: Collected, pictures: Mapping[str, str]) -> str:
    if not data.metrics:
        return ""
    rows = [["updates done", str(data.metrics[-1]["step"])]]
    rows += [[name, f"{value:.4f}"] for name, value in _last_values(data.metrics).items()]
    if data.timing:
        speeds = sorted(row["tokens_per_second"] for row in data.timing if "tokens_per_second" in row)
        if speeds:
            rows.append(["median tokens a second", f"{speeds[len(speeds) // 2]:,.0f}"])
    for role, ledger in data.tokens.items():
        text = size(ledger["num_bytes"])
        counts = f"{ledger['num_tokens']:,} in {ledger['num_documents']:,} documents, {text} of text"
        rows.append([f"tokens, {role}", counts])
    for split, counts in data.provenance.get("splits", {}).items():
        rows.append([f"documents, {split}", f"{counts['num_documents']:,}, {size(counts['num_bytes'])}"])
    note = (
        "Validation in training reads rows of the training length, maybe of a part of the set; the scores above read "
        "whole documents. The two need not agree.\n"
    )
    image = "![loss.svg](loss.svg)" if "loss.svg" in pictures else ""
    return "\n".join(["## Training\n", image, "", table(["what", "value"], rows), "", note])


def _last_values(metrics: tuple[Mapping[str, Any], ...]) -> dict[str, float]:
    """The last value of every loss and validation metric; a validation says how much text it was measured on."""
    last: dict[str, Any] = {}
    for row in metrics:
        last |= row
    values = {}
    for name, value in last.items():
        if name.endswith(("/loss", "/bits_per_byte")):
            num_bytes = last.get(f"{name.rpartition('/')[0]}/bytes")
            values[f"last {name}" + (f", on {size(num_bytes)}" if num_bytes else "")] = value
    return values


def _export_section(data: Collected) -> str:
    if not data.parity:
        return ""
    plain = {name: value for name, value in data.parity.items() if not isinstance(value, (dict, list))}
    rows = [[name.replace("_", " "), _plain(value)] for name, value in plain.items()]
    return "\n".join(["## Export, checked against the checkpoint\n", table(["what", "value"], rows), ""])


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _samples_section(data: Collected) -> str:
    parts = []
    for sample in data.evaluation.get("generations", []):
        settings = ", ".join(f"{k} {v}" for k, v in sample.items() if k in ("temperature", "seed", "document"))
        parts += [
            f"**Prompt** ({settings})\n" if settings else "**Prompt**\n",
            _code(sample["prompt"]),
            "**Model**\n",
            _code(sample["completion"]),
            "**The document goes on**\n",
            _code(sample["reference"]),
        ]
    return "\n".join(["## Samples\n", *parts]) if parts else ""


def _steps_section(data: Collected) -> str:
    rows = [
        [
            step.name,
            f"`{step.digest[:10]}`",
            seconds(step.wall_s),
            seconds(step.cpu_s) if step.cpu_s is not None else "",
            size(step.max_rss) if step.max_rss else "",
            f"{step.num_files} files, {size(step.num_bytes)}",
            str(step.attempts),
            f"`{step.root_digest[:10]}`",
        ]
        for step in data.lineage
    ]
    header = ["step", "identity", "wall", "CPU", "peak memory", "output", "attempts", "output sha256"]
    note = "The step that wrote this page is not in it: its record is made when the page is done.\n"
    return "\n".join(["## Steps\n", "![steps.svg](steps.svg)", "", table(header, rows), "", note])


def _config_section(data: Collected) -> str:
    if not data.config_yaml:
        return ""
    return "\n".join(["## Resolved training config\n", _code(data.config_yaml, "yaml")])


def _environment_section(lineage: tuple[StepRecord, ...]) -> str:
    """The environment of the last step; earlier ones may have run elsewhere, their records say where."""
    if not lineage:
        return ""
    flat: dict[str, Any] = {}
    for name, value in lineage[-1].environment.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    rows = [[name, f"`{value}`"] for name, value in flat.items() if value not in (None, "", [])]
    return "\n".join([f"## Environment of step {lineage[-1].name}\n", table(["what", "value"], rows), ""])


def _code(text: str, language: str = "text") -> str:
    """A fenced block whose fence is longer than any in the text, so that no sample can break out of it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def page(title: str, markdown: str, pictures: Mapping[str, str]) -> str:
    import markdown as markdown_library

    body = markdown_library.markdown(markdown, extensions=["tables", "fenced_code"])
    for name, picture in pictures.items():
        body = body.replace(f'<img alt="{name}" src="{name}" />', f"<figure>{_separate_ids(picture, name)}</figure>")
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return _PAGE.replace("{title}", escape(title)).replace("{body}", body)


def _separate_ids(picture: str, name: str) -> str:
    """Several SVGs in one page must not share ids."""
    stem = re.sub(r"\W", "-", name)
    picture = re.sub(r'\bid="([^"]+)"', rf'id="{stem}-\1"', picture)
    picture = re.sub(r'href="#([^"]+)"', rf'href="#{stem}-\1"', picture)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{stem}-\1)", picture)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; color: #1f2933; background: #fff; margin: 2rem auto;
  max-width: 62rem; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .4rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid #d9dee3; padding-bottom: .2rem; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { color: #52606d; font-weight: 600; }
td { font-variant-numeric: tabular-nums; }
.wide, figure { overflow-x: auto; margin: 1rem 0; }
svg { max-width: 100%; height: auto; }
pre { background: #f5f7fa; border-left: 3px solid #1f6f8b; padding: .7rem 1rem; overflow-x: auto; font-size: .82rem;
  line-height: 1.4; white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: "DejaVu Sans Mono", ui-monospace, monospace; }
blockquote { background: #fdecea; border-left: 6px solid #b3261e; margin: 1rem 0; padding: .7rem 1rem; }
td code { font-size: .85em; overflow-wrap: anywhere; }
</style>
</head>
<body>
{body}
<script>
function marinTaint(text) {
  const banner = document.createElement("blockquote"), head = document.createElement("strong");
  banner.setAttribute("role", "alert");
  head.textContent = "Do not trust the numbers of this page. ";
  banner.append(head, text);
  document.body.prepend(banner);
}
(function () {
  const attempt = location.pathname.match(/\\/attempts\\/([^\\/]+)\\/[^\\/]*$/);
  const script = document.createElement("script");
  script.src = attempt ? "../../.exec/taint-" + attempt[1] + ".js" : "../.exec/taint.js";
  document.body.append(script);
})();
</script>
</body>
</html>
"""
