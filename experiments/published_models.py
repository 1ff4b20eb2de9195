"""Classifiers that others published, as steps that fetch them and refuse another file.

| model | labels | what is kept by it | licence |
|---|---|---|---|
| lid.176 (Joulin et al. 2016) | 176 languages | English from 0.65 on in RefinedWeb, DCLM, FineWeb | CC-BY-SA 3.0 |
| DCLM's (Li et al. 2024, arXiv:2406.11794) | hq, cc | P(hq) >= 0.018112, about the best tenth of their pool | MIT |

Thresholds are those of fastText's output, which is 0.00001 above the probability: 0.018112 there is 0.018102 here.
"""

from marin.download.api import hub_repository, pinned_files
from marin.download.http import RemoteFile
from marin.processing.classify.scorers import LinearScorer

_FASTTEXT = "https://dl.fbaipublicfiles.com/fasttext/supervised-models"

# Pruned and quantised: 1 MB, a little less accurate than the whole.
lid176 = pinned_files(
    "models/lid176",
    RemoteFile(
        path="lid.176.ftz",
        url=f"{_FASTTEXT}/lid.176.ftz",
        size=938_013,
        sha256="8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
    ),
)
lid176_whole = pinned_files(
    "models/lid176-whole",
    RemoteFile(
        path="lid.176.bin",
        url=f"{_FASTTEXT}/lid.176.bin",
        size=131_266_198,
        sha256="7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
    ),
)

_DCLM_FILE = "openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train.bin"
dclm_classifier = hub_repository(
    "models/dclm-fasttext",
    "mlfoundations/fasttext-oh-eli5",
    revision="cd8b714a90f2dbcd3b02cf5fc972e5d7c7f4f107",
    files=(_DCLM_FILE,),
    kind="models",
)
DCLM_THRESHOLD = 0.018112 - 0.00001
dclm_scorer = LinearScorer(model=dclm_classifier / _DCLM_FILE, label="hq")  # type: ignore[arg-type]
