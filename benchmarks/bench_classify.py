"""How fast do classifiers score and train, beside fastText, and do the two say the same?

Two folders of text give two labels. Our trainer makes a model of fastText's default shape with word bigrams (100
columns, 2,000,000 buckets), which is written as a .bin; both programs then score the same file with it, and how far
their probabilities are apart is told too. The language model is lid.176.ftz or another file that you name. Ours and
theirs take turns; each figure is the least of its rounds. Time is CPU time. Of fastText's program it is that of
`predict-prob` on all texts less that of one word, so loading does not count; ours is one call for all texts, without
loading.

Training: one pass over the texts by either, all else equal. fastText 0.9.3 starts its threads at weights that it has
not set unless it has more than ten, so it has twelve here, and its CPU time is the sum over them.

    python benchmarks/bench_classify.py --good FOLDER --other FOLDER --fasttext PROGRAM --languages lid.176.ftz

Folders hold text files, one document each. Without a program there are our figures alone.
"""

import argparse
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from marin.processing.classify.config import LinearModelConfig
from marin.processing.classify.fasttext_format import write_fasttext
from marin.processing.classify.linear import LinearClassifier, label_tree, load_classifier, text_buffers
from marin.processing.classify.train import build_vocabulary
from marin.processing.kernels.linear_sgd import sgd_epoch

RESULT = Path(__file__).resolve().parent / "results" / "classify.md"
LABELS = ("good", "other")
LEARNING_RATE = 0.1
GUARD = 1e-5  # that fastText adds to a probability before it takes the logarithm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--good", required=True, help="folder of text files of one label")
    parser.add_argument("--other", required=True, help="folder of text files of the other")
    parser.add_argument("--fasttext", help="fastText's program")
    parser.add_argument("--languages", help="a fastText file that tells languages")
    parser.add_argument("--num_buckets", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no_write", action="store_true", help="print only")
    arguments = parser.parse_args()
    texts, labels = read_texts((arguments.good, arguments.other))
    with tempfile.TemporaryDirectory() as folder:
        text = report(texts, labels, arguments, Path(folder))
    print(text)
    if not arguments.no_write:
        RESULT.write_text(text, encoding="utf-8")


def read_texts(folders: tuple[str, str]) -> tuple[list[bytes], np.ndarray]:
    """The files of both folders in a shuffled order, line ends as spaces, and the place of each one's label."""
    pairs = [
        (file.read_text(encoding="utf-8", errors="replace").replace("\n", " ").replace("\r", " ").encode(), label)
        for label, folder in enumerate(folders)
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    ]
    order = np.random.default_rng(0).permutation(len(pairs)).tolist()
    return [pairs[index][0] for index in order], np.array([pairs[index][1] for index in order])


def report(texts: list[bytes], labels: np.ndarray, arguments: argparse.Namespace, folder: Path) -> str:
    data, offsets = text_buffers(texts)
    megabytes = data.size / 1e6
    rows = []

    config = LinearModelConfig(
        dim=100, word_ngrams=2, min_chars=0, max_chars=0, num_buckets=arguments.num_buckets, min_count=1
    )
    model, train_s = train(texts, labels, config)
    bigram_file = folder / "bigram.bin"
    write_fasttext(model, bigram_file)
    fasttext_train_s = fasttext_train(texts, labels, arguments, folder) if arguments.fasttext else None
    rows.append(row("train, one pass, 100 columns, bigrams", megabytes, train_s, fasttext_train_s, "-"))

    lines = folder / "texts.txt"
    lines.write_bytes(b"".join(text + b"\n" for text in texts))
    files = {"score, two labels, bigrams": str(bigram_file)}
    if arguments.languages:
        files[f"score, {Path(arguments.languages).name}"] = arguments.languages
    for name, file in files.items():
        rows.append(score_row(name, file, data, offsets, lines, arguments))
    return "\n".join(
        [
            "# Classifiers",
            "",
            f"{len(texts):,} documents, {megabytes:.1f} MB. What is measured and how: the first lines of "
            "`benchmarks/bench_classify.py`.",
            "",
            "| what | MB a CPU second | fastText's program | ratio | largest difference of a probability, decisions |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Machine: {cpu_name()}, 2 shared cores, CPython {platform.python_version()}, ten million additions "
            f"{additions_s():.2f} s; numpy {np.__version__}. fastText was compiled with -O3. "
            f"Load average {os.getloadavg()[0]:.1f} at the end.",
            "",
        ]
    )


def row(name: str, megabytes: float, ours_s: float, theirs_s: float | None, note: str) -> str:
    if theirs_s is None:
        return f"| {name} | {megabytes / ours_s:.1f} | not given | | {note} |"
    return f"| {name} | {megabytes / ours_s:.1f} | {megabytes / theirs_s:.1f} | {theirs_s / ours_s:.1f} | {note} |"


def score_row(
    name: str, file: str, data: np.ndarray, offsets: np.ndarray, lines: Path, arguments: argparse.Namespace
) -> str:
    model = load_classifier(file)
    probabilities = model.probabilities(data, offsets)  # compiled and summed now
    ours, theirs = [], []
    printed = b""
    one_word = lines.with_name("one.txt")
    one_word.write_text("a\n")
    for _ in range(arguments.rounds):
        ours.append(cpu_s(lambda: model.probabilities(data, offsets)))
        if arguments.fasttext:
            whole, printed = children_s(lambda: predict(arguments.fasttext, file, lines))
            loading, _ = children_s(lambda: predict(arguments.fasttext, file, one_word))
            theirs.append(whole - loading)
    note = compared(model, probabilities, data, offsets, printed.decode()) if printed else ""
    return row(name, data.size / 1e6, min(ours), min(theirs) if theirs else None, note)


def compared(
    model: LinearClassifier, probabilities: np.ndarray, data: np.ndarray, offsets: np.ndarray, printed: str
) -> str:
    """How far the likeliest label's probability is from the printed one, and how many decisions are the same."""
    ours = probabilities + GUARD
    if model.loss == "hs":  # it guards every turn in its tree of labels
        turns = 1 / (1 + np.exp(-model.logits(data, offsets)))
        ours = np.stack(
            [
                np.prod([(turns[:, n] if right else 1 - turns[:, n]) + GUARD for n, right in way], axis=0)
                for way in label_tree(model.label_counts)
            ],
            axis=1,
        )
    # after a text that has the end mark in it, its program goes on with the rest as another text
    if printed.count("\n") != len(ours):
        return f"{printed.count(chr(10))} lines for {len(ours)} texts"
    largest, num_same = 0.0, 0
    for values, line in zip(ours, printed.splitlines(), strict=True):
        if not line:
            continue
        label, probability = line.split()
        index = model.labels.index(label.removeprefix("__label__"))
        largest = max(largest, abs(values[index] - float(probability)))
        num_same += int(values.argmax()) == index
    return f"{largest:.1e}, {num_same:,} of {len(ours):,} the same"


def predict(program: str, model: str, lines: Path) -> bytes:
    return subprocess.run([program, "predict-prob", model, str(lines), "1"], capture_output=True, check=True).stdout


def train(texts: list[bytes], labels: np.ndarray, config: LinearModelConfig) -> tuple[LinearClassifier, float]:
    """(model after one pass, CPU seconds of dictionary and pass)."""
    data, offsets = text_buffers(texts)
    # compiles
    tiny = build_vocabulary([b"a b"], config)
    few_rows = np.zeros((tiny.num_rows, config.dim), np.float32)
    first = np.array([0, 1], np.int64)
    rates = {"first_rate": LEARNING_RATE, "last_rate": 0.0}
    few_outputs = np.zeros((2, config.dim), np.float32)
    sgd_epoch(data[:1], first, labels[:1], np.zeros(1, np.int64), tiny, few_rows, few_outputs, **rates)

    began = time.process_time()
    vocabulary = build_vocabulary(texts, config)
    generator = np.random.default_rng(0)
    rows = generator.random((vocabulary.num_rows, config.dim), np.float32) * 2 / config.dim - 1 / config.dim
    outputs = np.zeros((len(LABELS), config.dim), np.float32)
    sgd_epoch(data, offsets, labels, generator.permutation(len(texts)), vocabulary, rows, outputs, **rates)
    spent = time.process_time() - began
    counts = tuple(np.bincount(labels, minlength=len(LABELS)).tolist())
    model = LinearClassifier(labels=LABELS, vocabulary=vocabulary, rows=rows, outputs=outputs, label_counts=counts)
    return model, spent


def fasttext_train(texts: list[bytes], labels: np.ndarray, arguments: argparse.Namespace, folder: Path) -> float:
    lines = folder / "labelled.txt"
    lines.write_bytes(
        b"".join(
            b"__label__" + LABELS[label].encode() + b" " + text + b"\n"
            for text, label in zip(texts, labels, strict=True)
        )
    )
    options = ["-dim", "100", "-wordNgrams", "2", "-bucket", str(arguments.num_buckets), "-epoch", "1", "-thread", "12"]
    command = [arguments.fasttext, "supervised", "-input", str(lines), "-output", str(folder / "theirs"), *options]
    spent, _ = children_s(
        lambda: subprocess.run([*command, "-lr", str(LEARNING_RATE)], capture_output=True, check=True).stdout
    )
    return spent


def cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def children_s(work: Callable[[], bytes]) -> tuple[float, bytes]:
    """(CPU seconds of the processes that `work` starts and waits for, what it returns)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, made


def additions_s() -> float:
    """CPU seconds of ten million additions in plain Python: what a core is worth here."""
    began = time.process_time()
    total = 0
    for _ in range(10_000_000):
        total += 1  # noqa: SIM113  # the work itself
    return time.process_time() - began


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
