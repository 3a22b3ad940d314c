"""Corrects data/iris.csv: two flowers get the measurements that R. A. Fisher's paper of 1936 gives.

    python correct.py

The file comes from the UCI Machine Learning Repository (https://doi.org/10.24432/C56C76). Its flowers 35 and 38
differ from the paper.
"""

from pathlib import Path

FILE = Path(__file__).parent / "data" / "iris.csv"
CORRECTIONS = {
    "35,4.9,3.1,1.5,0.1,setosa": "35,4.9,3.1,1.5,0.2,setosa",
    "38,4.9,3.1,1.5,0.1,setosa": "38,4.9,3.6,1.4,0.1,setosa",
}


def correct(text: str) -> str:
    return "\n".join(CORRECTIONS.get(line, line) for line in text.split("\n"))


if __name__ == "__main__":
    FILE.write_text(correct(FILE.read_text()))
