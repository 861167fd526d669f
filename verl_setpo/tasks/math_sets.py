r"""The sets of problems that the two papers train and test on, and where the Hugging Face hub keeps them.

A table, without any import that costs time: the reward needs its names, the command line its options, and only
`verl_setpo.tasks.math_sets_load` reads data. Row counts, columns and types are those of the hub's dataset cards and
files; loading says so in one sentence where they have changed since.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

AnswerForm = Literal["text", "after_hashes", "boxed"]


@dataclass(frozen=True)
class HubSet:
    """One set of problems on the hub.

    Args:
        name: its name on the command line and, in the rows that we write, `data_source`.
        hub: its id on the hub.
        splits: our split, "train" or "test", to the hub's. Some publish a test set as their "train".
        rows: our split to its rows as published.
        question: the columns that may hold the problem, the first that is there counts; "a.b" is field b of struct a.
        answer: the same for the answer.
        purpose: what the papers use it for.
        config: the hub's configuration, where there are several.
        files: our split to a file of the repository, where only some of its files are wanted.
        answer_form: "text": the column is the answer, a text, a number or a list of them; "after_hashes": it is a
            solution with the answer after the last ####; "boxed": it is a solution with the answer in the last box.
        kind: a column that says what kind of problem a row is, and the kinds without an answer to compare.
        difficulty: a column that holds a text such as "3/8", how many of how many attempts of a model were right.
    """

    name: str
    hub: str
    splits: Mapping[str, str]
    rows: Mapping[str, int]
    question: tuple[str, ...]
    answer: tuple[str, ...]
    purpose: str
    config: str | None = None
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    answer_form: AnswerForm = "text"
    kind: tuple[str, frozenset[str]] | None = None
    difficulty: str | None = None


_PROBLEM = ("problem",)
_QUESTION = ("question",)
_ANSWER = ("answer",)
_SOLUTION = ("solution",)
_TEST = {"test": "test"}
_TEST_AS_TRAIN = {"test": "train"}

_TABLE = (
    HubSet(
        "gsm8k",
        "openai/gsm8k",
        {"train": "train", "test": "test"},
        {"train": 7473, "test": 1319},
        _QUESTION,
        _ANSWER,
        "SetPO: training of the 1.5B and 7B models, test",
        config="main",
        answer_form="after_hashes",
    ),
    # Its `prompt` is already wrapped in Qwen's chat template, which verl would wrap again: read the bare question.
    HubSet(
        "simplerl-hard",
        "hkust-nlp/SimpleRL-Zoo-Data",
        {"train": "train", "test": "test"},
        {"train": 8523, "test": 500},
        ("extra_info.question", "question", "problem"),
        ("extra_info.answer", "reward_model.ground_truth", "gt_answer", "answer"),
        "SetPO: training of the 32B model (MATH, levels 3 to 5)",
        files={
            "train": "simplelr_qwen_level3to5/train.parquet",
            "test": "simplelr_qwen_level3to5/test.parquet",
        },
    ),
    HubSet(
        "polaris",
        "POLARIS-Project/Polaris-Dataset-53K",
        {"train": "train"},
        # Its name gives the count, its card none.
        {"train": 53_000},
        _PROBLEM,
        _ANSWER,
        "Poly-EPO: training",
        difficulty="difficulty",
    ),
    HubSet(
        "aime24", "math-ai/aime24", _TEST, {"test": 30}, _PROBLEM, ("solution",), "SetPO: test", answer_form="boxed"
    ),
    HubSet("aime25", "math-ai/aime25", _TEST, {"test": 30}, _PROBLEM, _ANSWER, "SetPO, Poly-EPO: test"),
    HubSet("aime26", "MathArena/aime_2026", _TEST_AS_TRAIN, {"test": 30}, _PROBLEM, _ANSWER, "Poly-EPO: test"),
    HubSet("amc23", "math-ai/amc23", _TEST, {"test": 40}, _QUESTION, _ANSWER, "SetPO: test"),
    HubSet("math500", "HuggingFaceH4/MATH-500", _TEST, {"test": 500}, _PROBLEM, _ANSWER, "SetPO: test"),
    HubSet("minerva", "math-ai/minervamath", _TEST, {"test": 272}, _QUESTION, _ANSWER, "Poly-EPO: test"),
    HubSet(
        "olympiad",
        "math-ai/olympiadbench",
        _TEST,
        {"test": 674},
        _QUESTION,
        ("final_answer",),
        "a test that others report (OlympiadBench, mathematics in English)",
        # OE is an open question with an answer, TP is "prove that".
        kind=("question_type", frozenset({"TP", "Theorem proof"})),
    ),
    # The 2,818 test problems of MathScale's CollegeMath, which the evaluation of Qwen2.5-Math runs under this name;
    # its authors publish a file and no hub repository, and this copy is the one that public loaders take.
    HubSet(
        "college-math",
        "di-zhang-fdu/College_Math_Test",
        _TEST,
        {"test": 2818},
        _QUESTION,
        _ANSWER,
        "SetPO: test (College Math)",
    ),
    HubSet("hmmt-feb25", "MathArena/hmmt_feb_2025", _TEST_AS_TRAIN, {"test": 30}, _PROBLEM, _ANSWER, "Poly-EPO: test"),
    HubSet("hmmt-nov25", "MathArena/hmmt_nov_2025", _TEST_AS_TRAIN, {"test": 30}, _PROBLEM, _ANSWER, "Poly-EPO: test"),
    HubSet("beyond-aime", "ByteDance-Seed/BeyondAIME", _TEST, {"test": 100}, _PROBLEM, _ANSWER, "Poly-EPO: test"),
)

SETS: Mapping[str, HubSet] = MappingProxyType({entry.name: entry for entry in _TABLE})

# Not among SETS, since its answers are equations: verl_setpo.tasks.countdown scores it.
COUNTDOWN = HubSet(
    "countdown",
    "Jiayi-Pan/Countdown-Tasks-3to4",
    {"train": "train"},
    {"train": 490364},
    ("nums",),
    ("target",),
    "SetPO: training of the 3B model on 86,400 of them",
)
