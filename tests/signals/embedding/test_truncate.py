"""Head and tail of long texts, within the limit of the model's own tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.signals.embedding.models import FACTORING, MINILM, PROBABILITY, TRIANGLE, byte_level
from tests.tasks.hostile import HOSTILE_TEXTS, TIME_LIMIT, cpu_seconds
from verl_setpo.signals.embedding.text import encodable
from verl_setpo.signals.embedding.truncate import GAP, MIN_ROOM, ByteCounter, TokenizerCounter, Truncator

COUNTERS = {
    "word pieces": TokenizerCounter(AutoTokenizer.from_pretrained(MINILM)),
    "bytes in pairs": TokenizerCounter(byte_level()),
    "no tokenizer": ByteCounter(),
}
counters = st.sampled_from(list(COUNTERS.values()))
each_counter = pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS)

# Text of words, of anything at all, and of what tokenizers treat in a way of its own.
words = st.lists(st.sampled_from(" ".join(FACTORING + TRIANGLE + PROBABILITY).split()), max_size=150).map(" ".join)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
odd = st.lists(
    st.sampled_from(
        ["\ufdfa", "👨‍👩‍👧", "e\u0301", "的", "\0", "\t\n", "9" * 40, "x" * 120, "[SEP]", "<|end|>", "...", " "]
    ),
    max_size=60,
).map("".join)
texts = st.builds(lambda text, times: text * times, words | anything | odd, st.sampled_from([1, 1, 3, 30]))


@settings(deadline=None)
@given(texts, counters, st.integers(40, 120), st.sampled_from(["", "Instruct: compare\nQuery:"]), st.floats(0, 1))
def test_never_above_the_limit_with_prompt_and_special_tokens(text, counter, limit, prompt, share):
    limit += counter.count(prompt)
    [fitted] = Truncator(counter, limit, prompt, share).fit([text])
    assert fitted.tokens == counter.count(prompt + fitted.text) <= limit


@settings(deadline=None)
@given(texts, counters, st.integers(40, 120))
def test_a_text_within_the_limit_is_unchanged_and_others_are_said_to_be_shortened(text, counter, limit):
    [fitted] = Truncator(counter, limit).fit([text])
    fits = counter.count(text) <= limit
    assert fitted.shortened == (not fits)
    assert (fitted.text == text) >= fits


@each_counter
def test_a_text_of_exactly_the_limit_is_unchanged_and_one_token_more_is_not(counter):
    text = "a word and " * 20
    tokens = counter.count(text)
    assert Truncator(counter, tokens).fit([text])[0] == (text, tokens, False)
    assert Truncator(counter, tokens - 1).fit([text])[0].shortened


@settings(deadline=None)
@given(texts, counters, st.integers(40, 120), st.floats(0, 1))
def test_a_shortened_text_is_its_own_head_and_tail(text, counter, limit, share):
    [fitted] = Truncator(counter, limit, head_share=share).fit([text])
    splits = [i for i in range(len(fitted.text)) if fitted.text.startswith(GAP, i)]
    pairs = [(fitted.text[:i], fitted.text[i + len(GAP) :]) for i in splits]
    assert not fitted.shortened or any(text.startswith(head) and text.endswith(tail) for head, tail in pairs)


@each_counter
def test_the_room_is_used_and_shared_between_head_and_tail(counter):
    text = "first approach " + "and so on " * 500 + "final result"
    [fitted] = Truncator(counter, 100).fit([text])
    assert fitted.text.startswith("first approach and so on")
    assert fitted.text.endswith("and so on final result")
    assert 90 <= fitted.tokens <= 100
    head, tail = fitted.text.split(GAP)
    assert abs(counter.count(head) - counter.count(tail)) <= 3


@pytest.mark.parametrize(("share", "kept"), [(0.0, "final result"), (1.0, "first approach")])
def test_a_head_share_of_0_or_1_keeps_one_end_only(share, kept):
    counter = COUNTERS["word pieces"]
    [fitted] = Truncator(counter, 64, head_share=share).fit(["first approach " + "and so on " * 500 + "final result"])
    assert ("first approach" in fitted.text) + ("final result" in fitted.text) == 1
    assert kept in fitted.text


def test_a_fast_tokenizer_by_name_and_none_at_all():
    assert TokenizerCounter.load(MINILM).count("two words") == 4
    assert ByteCounter().count("two words") == 9 + ByteCounter.SPECIAL
    with pytest.raises(ValueError, match=r"signal\.tokenizer=/no/such cannot be loaded .* or set tokenizer=null"):
        TokenizerCounter.load("/no/such")


@settings(deadline=None)
@given(texts)
def test_bytes_are_never_fewer_than_the_tokens_of_a_byte_level_tokenizer(text):
    assert ByteCounter().count(text) >= COUNTERS["bytes in pairs"].count(text)


@each_counter
def test_a_limit_without_room_for_a_text_is_refused_with_the_least_that_would_do(counter):
    with pytest.raises(
        ValueError, match=r"algorithm\.set_rl\.signal\.max_tokens=9 leaves 0 tokens .* set it to (\d+)"
    ) as e:
        Truncator(counter, 9, "a prompt of some words: ")
    least = int(str(e.value).split("set it to ")[1].split()[0])
    truncator = Truncator(counter, least, "a prompt of some words: ")
    assert truncator.fit(["a word " * 100])[0].tokens <= least
    with pytest.raises(ValueError, match=f"leaves {MIN_ROOM - 1} tokens"):
        Truncator(counter, least - 1, "a prompt of some words: ")


@each_counter
def test_hostile_text_fits_in_linear_time(counter):
    truncator = Truncator(counter, 256)
    for name, text in HOSTILE_TEXTS.items():
        clean, fitted = encodable(text), []
        assert cpu_seconds(lambda t=clean, out=fitted: out.extend(truncator.fit([t]))) < TIME_LIMIT, name
        assert fitted[0].tokens <= 256, name
