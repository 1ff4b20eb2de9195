"""A quality classifier whose good examples are answered questions of Stack Exchange (reference experiment 596).

    marin plan experiments/howto/exp596_stackexchange_classifier.py     # every step from the downloads on

DCLM's classifier (Li et al. 2024, arXiv:2406.11794) tells conversations (OpenHermes 2.5, ELI5) from web pages
(RefinedWeb). Experiment 596 of the reference project put question-and-answer pairs of Stack Exchange in the place of
the conversations: as helpful in manner, and of more subjects. What was kept by it gave a lower loss than what was kept
by the other two. The settings are its own: 200,000 texts of either kind, fastText with lr 0.1, word bigrams, and
defaults else (dim 100, 5 epochs, 2,000,000 buckets, every word).

Two things differ. Its pairs had 8 votes or more in a dump of its own; here they are Dolmino's. And a twentieth of the
texts is held out twice, to calibrate on and to report. `exp596_on_local_text.py` is the same on text that you have.
"""

from experiments.datasets.dolmino import download as dolmino
from experiments.published_models import dclm_scorer
from marin.download.api import http_files, hub_repository
from marin.execution.executor import executor_main
from marin.processing.classify.api import score, train_classifier
from marin.processing.classify.config import LabelledSource, LinearModelConfig
from marin.processing.classify.scorers import LinearScorer

NUM_TEXTS_OF_A_KIND = 200_000

BIGRAM_MODEL = LinearModelConfig(dim=100, word_ngrams=2, min_chars=0, max_chars=0, num_buckets=2_000_000, min_count=1)

# Dolma's copy of RefinedWeb; a few of its files hold enough.
refined_web = http_files(
    "raw/refined-web",
    "https://olmo-data.org/dolma-v1_7",
    index="https://huggingface.co/datasets/allenai/dolma/resolve/7f48140/urls/v1_7.txt",
    files=("*falcon-0000*",),
)
web_sample = hub_repository("raw/fineweb-sample", "HuggingFaceFW/fineweb", revision="cd85054", files=("sample/10BT/*",))

classifier = train_classifier(
    "stackexchange-200k-refinedweb-200k",
    (
        LabelledSource(
            input_path=dolmino / "data" / "stackexchange",  # type: ignore[arg-type]
            label="hq",
            max_documents=NUM_TEXTS_OF_A_KIND,
        ),
        LabelledSource(input_path=refined_web, label="lq", max_documents=NUM_TEXTS_OF_A_KIND),  # type: ignore[arg-type]
    ),
    model=BIGRAM_MODEL,
    num_epochs=5,
    learning_rate=0.1,
    seed=0,
)
scores = [
    score(
        "fineweb-sample/stackexchange",
        web_sample / "sample" / "10BT",
        LinearScorer(model=classifier, label="hq"),  # type: ignore[arg-type]
        column="stackexchange",
    ),
    score("fineweb-sample/dclm", web_sample / "sample" / "10BT", dclm_scorer, column="dclm"),
]

if __name__ == "__main__":
    executor_main(steps=scores, description="Quality by a classifier of Stack Exchange, and by DCLM's")
