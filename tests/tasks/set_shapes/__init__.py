r"""Small copies of the published sets in their true shape: the repository's files, columns and types, our own problems.

`write(name, folder)` makes what a download of the hub's repository gives: parquet with its schema, or JSON lines, and
the README whose head tells `datasets` the configurations, where there is one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEXT, INT, BOOL = pa.string(), pa.int64(), pa.bool_()
TEXTS, INTS = pa.list_(TEXT), pa.list_(INT)
MESSAGES = pa.list_(pa.struct({"content": TEXT, "role": TEXT}))


@dataclass(frozen=True)
class Shape:
    """Rows of each file, the parquet schema (None: JSON lines), the README's head, and what is to be read from them.

    expected: our split to the (question, ground truth) pairs in order.
    dropped: our split to the reasons.
    """

    files: Mapping[str, list[dict[str, Any]]]
    expected: Mapping[str, list[tuple[str, str]]]
    schema: Mapping[str, pa.DataType] | None = None
    head: str = ""
    dropped: Mapping[str, dict[str, int]] = field(default_factory=dict)


def write(name: str, folder: Path) -> Path:
    """The repository's files under `folder`, which is returned."""
    shape = SHAPES[name]
    for path, rows in shape.files.items():
        write_rows(folder / path, rows, shape.schema)
    if shape.head:
        (folder / "README.md").write_text(f"---\n{shape.head.strip()}\n---\n# A set\n")
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]], schema: Mapping[str, pa.DataType] | None = None) -> Path:
    """One file of rows, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows, schema=None if schema is None else pa.schema(schema)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _simplerl(question: str, answer: str, split: str, index: int) -> dict[str, Any]:
    wrapped = f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}\nPlease"
    return {
        "gt_answer": answer,
        "subject": "Algebra",
        "level": 5,
        "question": question,
        "prompt": [{"content": wrapped, "role": "user"}],
        "data_source": "simplelr/math",
        "ability": "math",
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"answer": answer, "index": index, "question": question, "split": split},
    }


_MATHARENA = """
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
license: cc-by-nc-sa-4.0
"""

_SUM = "What is the sum of the first five positive odd numbers?"
_ROOT = r"Find the positive root of $x^2 = 2$."
_HALF = "A fair coin is tossed once. What is the probability of heads?"

SHAPES: Mapping[str, Shape] = {
    "gsm8k": Shape(
        {
            "main/train-00000-of-00001.parquet": [
                {"question": "Ada has 3 bags of 4 plums. How many?", "answer": "3*4=<<3*4=12>>12 plums\n#### 12"},
                {"question": "A car costs $1,000 and a van 2 more. Both?", "answer": "It is 2,002.\n#### 2,002"},
                {"question": "Ada has 3 bags  of 4 plums. How many?", "answer": "12\n#### 12"},
                {"question": "Bo owes 5. Balance?", "answer": "He is below.\n#### -5"},
            ],
            "main/test-00000-of-00001.parquet": [
                {"question": "Half of 5?", "answer": "5/2\n#### 2.5"},
                {"question": "Bo owes 5. Balance?", "answer": "#### -5"},
                {"question": "Half of 5?", "answer": "5/2\n#### 2.5"},
            ],
            "socratic/train-00000-of-00001.parquet": [{"question": "Not this one.", "answer": "#### 1"}],
            "socratic/test-00000-of-00001.parquet": [{"question": "Nor this.", "answer": "#### 1"}],
        },
        {
            "train": [
                ("Ada has 3 bags of 4 plums. How many?", "12"),
                ("A car costs $1,000 and a van 2 more. Both?", "2002"),
                ("Bo owes 5. Balance?", "-5"),
            ],
            "test": [("Half of 5?", "2.5"), ("Bo owes 5. Balance?", "-5"), ("Half of 5?", "2.5")],
        },
        schema={"question": TEXT, "answer": TEXT},
        head="""
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: train
    path: socratic/train-*
  - split: test
    path: socratic/test-*
""",
        dropped={"train": {"the problem of an earlier row": 1}, "test": {}},
    ),
    "simplerl-hard": Shape(
        {
            "simplelr_qwen_level3to5/train.parquet": [
                _simplerl(_ROOT, r"\sqrt{2}", "train", 0),
                # Two of the published rows have no answer.
                _simplerl("Graph the line.", "", "train", 1),
                _simplerl(_SUM, "25", "train", 2),
            ],
            "simplelr_qwen_level3to5/test.parquet": [
                _simplerl("To polar?", r"\left(3, \frac{\pi}{2}\right)", "test", 0)
            ],
            "simplelr_qwen_level1to4/train.parquet": [_simplerl("An easy one.", "1", "train", 0)],
            "simplelr_qwen_level1to4/test.parquet": [_simplerl("An easy test.", "1", "test", 0)],
        },
        {
            "train": [(_ROOT, r"\sqrt{2}"), (_SUM, "25")],
            "test": [("To polar?", r"\left(3, \frac{\pi}{2}\right)")],
        },
        schema={
            "gt_answer": TEXT,
            "subject": TEXT,
            "level": INT,
            "question": TEXT,
            "prompt": MESSAGES,
            "data_source": TEXT,
            "ability": TEXT,
            "reward_model": pa.struct({"ground_truth": TEXT, "style": TEXT}),
            "extra_info": pa.struct({"answer": TEXT, "index": INT, "question": TEXT, "split": TEXT}),
        },
        dropped={"train": {"no answer": 1}, "test": {}},
    ),
    "polaris": Shape(
        {
            "polaris-data-53K.jsonl": [
                {"problem": _SUM, "answer": "25", "difficulty": "0/8"},
                {"problem": _HALF, "answer": r"\frac{1}{2}", "difficulty": "3/8"},
                {"problem": _ROOT, "answer": r"$\sqrt{2}$", "difficulty": "7/8"},
                {"problem": "Prove that there are infinitely many primes.", "answer": "p", "difficulty": "1/8"},
                {"problem": "A sum is 7. The answer is 7.", "answer": "7", "difficulty": "2/8"},
                {"problem": "Of 12 apples 3 are red. How many are not?", "answer": "9", "difficulty": "4/8"},
                {"problem": _SUM, "answer": "25", "difficulty": "5/8"},
            ]
        },
        {
            "train": [
                (_SUM, "25"),
                (_HALF, r"\frac{1}{2}"),
                (_ROOT, r"\sqrt{2}"),
                ("Of 12 apples 3 are red. How many are not?", "9"),
            ]
        },
        head="license: apache-2.0",
        dropped={
            "train": {
                "a proof is asked for": 1,
                "the question gives the answer away": 1,
                "the problem of an earlier row": 1,
            }
        },
    ),
    "aime24": Shape(
        {
            "test-00000-of-00001.parquet": [
                {"id": 60, "problem": _SUM, "solution": r"\boxed{025}", "url": "https://example.org/1"},
                {"id": 61, "problem": _HALF, "solution": r"So $\boxed{1}$, no: \boxed{\frac{1}{2}}.", "url": ""},
            ]
        },
        {"test": [(_SUM, "025"), (_HALF, r"\frac{1}{2}")]},
        schema={"id": INT, "problem": TEXT, "solution": TEXT, "url": TEXT},
    ),
    "aime25": Shape(
        {
            "test.jsonl": [
                {"problem": _SUM, "answer": "25", "id": "0"},
                {"problem": "How many?", "answer": "070", "id": "1"},
            ]
        },
        {"test": [(_SUM, "25"), ("How many?", "070")]},
        head="""
configs:
- config_name: default
  data_files:
  - split: test
    path: test*
""",
    ),
    "aime26": Shape(
        {"data/train-00000-of-00001.parquet": [{"problem_idx": 1, "answer": 25, "problem": _SUM}]},
        {"test": [(_SUM, "25")]},
        schema={"problem_idx": INT, "answer": INT, "problem": TEXT},
        head=_MATHARENA,
    ),
    "amc23": Shape(
        {
            "test-00000-of-00001.parquet": [
                {"id": 0, "answer": 27.0, "url": "https://example.org/2", "question": _SUM},
                {"id": 1, "answer": 0.5, "url": "", "question": _HALF},
            ]
        },
        {"test": [(_SUM, "27"), (_HALF, "0.5")]},
        schema={"id": INT, "answer": pa.float64(), "url": TEXT, "question": TEXT},
    ),
    "math500": Shape(
        {
            "test.jsonl": [
                {
                    "problem": _ROOT,
                    "solution": r"It is $\boxed{\sqrt{2}}$.",
                    "answer": r"\sqrt{2}",
                    "subject": "Algebra",
                    "level": 2,
                    "unique_id": "test/algebra/1.json",
                },
                {
                    "problem": "Who ran fastest?",
                    "solution": r"$\boxed{\text{Evelyn}}$",
                    "answer": r"\text{Evelyn}",
                    "subject": "Algebra",
                    "level": 1,
                    "unique_id": "test/algebra/2.json",
                },
            ]
        },
        {"test": [(_ROOT, r"\sqrt{2}"), ("Who ran fastest?", r"\text{Evelyn}")]},
    ),
    "minerva": Shape(
        {
            "test.jsonl": [
                {"question": "How long in seconds? Give the answer to 2 digits.", "answer": "9.6"},
                {"question": "The luminosity of a star, in erg/s?", "answer": "4e33"},
                {"question": "Write the equation.", "answer": r"m \ddot{x} + k x = 0"},
            ]
        },
        {
            "test": [
                ("How long in seconds? Give the answer to 2 digits.", "9.6"),
                ("The luminosity of a star, in erg/s?", "4e33"),
                ("Write the equation.", r"m \ddot{x} + k x = 0"),
            ]
        },
    ),
    "olympiad": Shape(
        {
            "test.jsonl": [
                {
                    "id": number,
                    "question": question,
                    "solution": ["One way.", "Another."],
                    "final_answer": answer,
                    "context": None,
                    "image_1": None,
                    "modality": "Text-only",
                    "difficulty": "Competition",
                    "is_multiple_answer": answer is not None and len(answer) > 1,
                    "unit": unit,
                    "answer_type": None if answer is None else "Numerical",
                    "error": error,
                    "question_type": kind,
                    "subfield": "Algebra",
                    "subject": "Math",
                    "language": "English",
                }
                for number, (question, answer, unit, error, kind) in enumerate(
                    [
                        (_SUM, ["25"], None, None, "Open-ended"),
                        ("Find all $x$ with $x^2 = 4$.", ["$-2$", "$2$"], None, None, "Open-ended"),
                        ("Find all triples.", ["$(1,8,19), (2,7,13)$"], None, None, "Open-ended"),
                        ("How far?", [r"$\frac{7}{2}$"], "m", "1e-2", "Open-ended"),
                        ("Let $n > 1$. Prove the claim.", None, None, None, "Theorem proof"),
                    ]
                )
            ]
        },
        {
            "test": [
                (_SUM, "25"),
                ("Find all $x$ with $x^2 = 4$.", "-2, 2"),
                ("Find all triples.", "(1,8,19), (2,7,13)"),
                ("How far?", r"\frac{7}{2}"),
            ]
        },
        head="""
configs:
- config_name: default
  data_files:
  - split: test
    path: test*
""",
        dropped={"test": {"a proof is asked for": 1}},
    ),
    "college-math": Shape(
        {
            "college-math-test.jsonl": [
                {
                    "data_source": "college_math.Algebra",
                    "question_number": "exercise.1.2.3",
                    "question": "Expand: $2(3 - n)$",
                    "answer": "$6-2 n$",
                    "license": "Creative Commons",
                    "data_topic": "college_math.algebra",
                }
            ]
        },
        {"test": [("Expand: $2(3 - n)$", "6-2 n")]},
        head="license: apache-2.0",
    ),
    "hmmt-feb25": Shape(
        {
            "data/train-00000-of-00001.parquet": [
                {"problem_idx": 1, "problem": _SUM, "answer": "25", "problem_type": ["Number Theory", "Algebra"]},
                {"problem_idx": 2, "problem": _ROOT, "answer": r"2^{1/2}", "problem_type": ["Algebra"]},
            ]
        },
        {"test": [(_SUM, "25"), (_ROOT, r"2^{1/2}")]},
        schema={"problem_idx": INT, "problem": TEXT, "answer": TEXT, "problem_type": TEXTS},
        head=_MATHARENA,
    ),
    "hmmt-nov25": Shape(
        {
            "data/train-00000-of-00001.parquet": [
                {"problem_idx": 1, "answer": r"\frac{1}{2}", "problem_type": ["Combinatorics"], "problem": _HALF}
            ]
        },
        {"test": [(_HALF, r"\frac{1}{2}")]},
        schema={"problem_idx": INT, "answer": TEXT, "problem_type": TEXTS, "problem": TEXT},
        head=_MATHARENA,
    ),
    "beyond-aime": Shape(
        {"data/test-00000-of-00001.parquet": [{"problem": _SUM, "answer": 25}]},
        {"test": [(_SUM, "25")]},
        schema={"problem": TEXT, "answer": INT},
    ),
    "countdown": Shape(
        {
            "data/train-00000-of-00001.parquet": [
                {"target": 98, "nums": [44, 19, 35]},
                {"target": 64, "nums": [63, 95, 96]},
                # The first problem in another order, of which the published set has 40,794.
                {"target": 98, "nums": [35, 44, 19]},
                {"target": 73, "nums": [95, 11, 56, 45]},
                {"target": 16, "nums": [74, 48, 56, 66]},
            ]
        },
        {},
        schema={"target": INT, "nums": INTS},
        head="""
dataset_info:
  features:
  - name: target
    dtype: int64
  - name: nums
    sequence: int64
  splits:
  - name: train
    num_bytes: 200
    num_examples: 5
  download_size: 1200
  dataset_size: 200
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
""",
    ),
}
