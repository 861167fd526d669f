"""Whatever the responses are, the prompt holds exactly these responses, each under its own id, and nothing else."""

from __future__ import annotations

import json
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.signals.judge.hostile import HOSTILE
from verl_setpo.signals.judge.prompt import PromptTemplate, Quoter, draw_ids

TEMPLATE = PromptTemplate()
ANY_TEXT = st.text(st.characters(codec="utf-8")) | st.text(
    st.sampled_from('<|>[]/"\\{}~:,\n\u2028_imstartINSidluo abc1')
)
MARKERS = (
    "<|",
    "|>x<",
    "</",
    "<s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "<tool",
    "<think",
    "<<SYS",
    "<start",
    "[|",
    "<｜",
    "▁",
)


def rendered(question, responses, seed=0):
    return TEMPLATE.render(question, responses, random.Random(seed), quoter=Quoter())


def parse(prompt):
    """The question and the (id, solution) items of a prompt, read line by line as they stand there."""
    lines = prompt.messages[-1]["content"].split("\n")
    start = next(i for i, line in enumerate(lines) if line.endswith("one JSON object per line:"))
    end = next(i for i, line in enumerate(lines) if line.startswith("End of the "))
    return json.loads(lines[1]), [json.loads(line) for line in lines[start + 1 : end]], lines[:start], lines[end:]


def assert_holds_exactly(question, responses, seed=0):
    prompt = rendered(question, responses, seed)
    found_question, items, before, after = parse(prompt)
    assert found_question == question
    assert [item["id"] for item in items] == list(prompt.ids)
    assert len(set(prompt.ids)) == len(responses)
    assert [item["solution"] for item in items] == [responses[i] for i in prompt.order]
    assert sorted(prompt.order) == list(range(len(responses)))
    assert all(set(item) == {"id", "solution"} for item in items)
    # All around them is what it is for harmless responses.
    _, _, harmless_before, harmless_after = parse(rendered("q", ["r"] * len(responses)))
    assert before[2:] == harmless_before[2:]
    assert after == harmless_after
    assert all(c.isprintable() or c == "\n" for message in prompt.messages for c in message["content"])
    return prompt


@given(ANY_TEXT, st.lists(ANY_TEXT, min_size=1, max_size=8), st.integers())
@settings(max_examples=150, deadline=None)
def test_any_responses_are_items_of_their_own(question, responses, seed):
    assert_holds_exactly(question, responses, seed)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_responses_are_items_of_their_own(name):
    prompt = assert_holds_exactly(HOSTILE[name][:200], ["x = 3", HOSTILE[name], "by symmetry"])
    quoted = prompt.messages[-1]["content"]
    assert not [marker for marker in MARKERS if marker in quoted]


def test_all_hostile_responses_at_once():
    assert_holds_exactly("What is 2 + 2?", list(HOSTILE.values()))


def test_a_response_cannot_hold_an_id_that_it_does_not_know():
    everything = "".join(a + b + c + d for a in "bcdf" for b in "bcdf" for c in "ghjk" for d in "mnpq")
    for seed in range(50):
        ids = rendered("q", [everything, "other"], seed).ids
        assert not any(name in everything for name in ids)
    used_up = "\n".join(a + b for a in "bcdfghjkmnpqrstvwxz" for b in "bcdfghjkmnpqrstvwxz")
    assert len(draw_ids(40, [used_up], random.Random(0))) == 40


def test_ids_and_order_change_with_the_seed_and_only_with_it():
    responses = [f"response {i}" for i in range(8)]
    prompts = [rendered("q", responses, seed) for seed in range(20)]
    assert len({prompt.order for prompt in prompts}) == len({prompt.ids for prompt in prompts}) == 20
    assert rendered("q", responses, 3) == prompts[3]


@given(ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_quoting_loses_nothing_and_shows_everything(text):
    quoted = Quoter()(text)
    assert json.loads(quoted) == text
    assert quoted.isprintable()
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in quoted)


@pytest.mark.parametrize(
    "text", ["x < 3", "x<3 and y<=2", "[0,1] and [a, b]", "∑ √2 ≤ π, 因此 x=3", "x = -b ± √d", "f(x) > 0"]
)
def test_mathematics_stays_legible(text):
    assert Quoter()(text) == f'"{text}"'


def tokenizer_with(tmp_path, specials):
    """A byte-level tokenizer that knows `specials`, saved as transformers would."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"additional_special_tokens": specials})
    fast.save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_tokenizer_finds_no_special_token_in_a_response(tmp_path):
    from verl_setpo.signals.judge.budget import TokenizerCount

    usual = ["<|im_start|>", "<|im_end|>", "</s>", "<s>", "[INST]", "[/INST]", "<tool_call>", "<｜User｜>", "<think>"]
    odd = ["@@END@@", "~~~turn", "]~b]", "((user))"]
    count = TokenizerCount(tokenizer_with(tmp_path, usual + odd))
    assert count.special_tokens >= {*usual, *odd}
    text = "".join(f"a{token}b {token}" for token in usual + odd) + "@@@@END@@"
    raw = count._tokenizer.encode(text, add_special_tokens=False)
    assert max(raw) > 255  # special tokens come after the bytes
    quoted = Quoter(count.special_tokens)(text)
    assert max(count._tokenizer.encode(quoted, add_special_tokens=False)) <= 255
    assert json.loads(quoted) == text
    assert count("abc") == 3


def test_a_template_of_ones_own(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("Sort {{ count }}: {{ question }}\n{% for s in solutions %}{{ s }}\n{% endfor %}")
    prompt = PromptTemplate(path).render("q", ["a"], random.Random(0), quoter=Quoter())
    assert [message["role"] for message in prompt.messages] == ["user"]
    assert prompt.messages[0]["content"].startswith('Sort 1: "q"\n{"id": ')


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ question }}", "leaves out \\['solutions'\\]"),
        ("{{ question }} {{ solutions }} {{ responses }}", "uses \\['responses'\\]; its variables are"),
        ("{% for %}", "is not a jinja2 template"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_template_is_one_sentence(tmp_path, source, message):
    path = tmp_path / "mine.jinja"
    if source is not None:
        path.write_text(source)
    with pytest.raises(ValueError, match=rf"^template={path} .*{message}"):
        PromptTemplate(path)


def test_the_built_in_prompt_says_what_must_be_said():
    prompt = TEMPLATE.render(
        "q", ["r"], random.Random(0), quoter=Quoter(), degenerate_cluster=77, max_strategy_chars=55
    )
    text = "\n".join(message["content"] for message in prompt.messages)
    for said in (
        "77",
        "55",
        "if, and only if",
        "key step",
        "final answer",
        "guessed",
        "ever an instruction",
        "cluster_id",
    ):
        assert said in text
    assert "100" not in text
