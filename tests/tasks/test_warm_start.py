"""The tiny model and its supervised start: a few steps only; the recipes run the whole of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from verl_setpo.tasks import polynomial
from verl_setpo.tasks.data import to_rows, write_dataset
from verl_setpo.tasks.make_model import make_tiny_model
from verl_setpo.tasks.tiny_model import build_model, build_tokenizer, prompt_ids, save
from verl_setpo.tasks.warm_start import (
    DEFAULTS,
    IGNORED,
    Prompt,
    WarmStartConfig,
    _Batches,
    measure,
    sample,
    to_prompts,
    train,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


tokenizer = build_tokenizer()
problems = polynomial.generate(243, 0)
prompts = to_prompts(polynomial, to_rows(polynomial, problems, "train", "tiny"), tokenizer)
QUICK = WarmStartConfig(steps=30, batch_size=16, warmup_steps=5, check_every=1000)


def test_the_tokenizer_has_one_token_per_byte() -> None:
    assert len(tokenizer) == 258
    assert len(tokenizer("y=x^2+3x+7\n").input_ids) == 11
    assert tokenizer.decode(tokenizer("é\n(1,11)").input_ids) == "é\n(1,11)"
    assert tokenizer("<|im_end|>").input_ids == [tokenizer.eos_token_id]
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_saved_model_and_tokenizer_load_with_the_auto_classes(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = build_model(tokenizer, seed=1)
    assert 150_000 < model.num_parameters() < 400_000
    save(model, tokenizer, tmp_path, {})
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "y=x^2+3x+7"}]
    ids = prompt_ids(loaded_tokenizer, messages)
    assert ids == prompt_ids(tokenizer, messages) == tokenizer("y=x^2+3x+7\n").input_ids
    assert loaded_tokenizer("\n").input_ids == [ids[-1]]
    assert (loaded_tokenizer.eos_token_id, loaded_tokenizer.pad_token_id) == (257, 256)
    assert (loaded.generation_config.eos_token_id, loaded.generation_config.pad_token_id) == (257, 256)
    assert loaded.config.head_dim == 32  # the smallest that vLLM's attention on CPUs supports
    assert loaded.dtype == torch.float32
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    with torch.no_grad():
        assert torch.equal(loaded(torch.tensor([ids])).logits, model.eval()(torch.tensor([ids])).logits)


def test_verl_can_continue_the_conversation() -> None:
    """verl's Qwen token builder appends turns; the chat template must render each prefix as a prefix."""
    builders = pytest.importorskip("verl.utils.tokenizer.continuous_token_wiring")
    builder = builders.create_continuous_token_builder(tokenizer, hf_model_type="qwen3")
    user = {"role": "user", "content": "y=x^2+3x+7"}
    turns = [user, {"role": "assistant", "content": "(1,11)"}, user]
    first = prompt_ids(tokenizer, turns[:1])
    answered = first + tokenizer("(1,11)<|im_end|>").input_ids
    merged = builder.merge_context_tokens(turns[:2], turns, answered)
    assert merged.token_ids == prompt_ids(tokenizer, turns)


def test_only_the_answer_and_eos_are_learned() -> None:
    ids, labels = _Batches(prompts[:1], tokenizer, QUICK).draw()
    prompt_length = len(prompts[0].tokens)
    assert (labels[:, :prompt_length] == IGNORED).all()
    for row_ids, row_labels in zip(ids, labels, strict=True):
        learned = row_ids[row_labels != IGNORED]
        assert torch.equal(learned, row_labels[row_labels != IGNORED])
        assert learned[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(learned[:-1])
        assert polynomial.compute_score("polynomial", text, prompts[0].ground_truth)["acc"] == 1.0
        after = row_ids[prompt_length + len(learned) :]
        assert (after == tokenizer.pad_token_id).all()


def test_training_lowers_the_loss_and_is_deterministic_by_seed() -> None:
    def trained(seed: int) -> tuple[torch.Tensor, list[str]]:
        lines: list[str] = []
        model = build_model(tokenizer, layers=1, width=32, seed=seed)
        assert train(model, tokenizer, prompts, replace(QUICK, seed=seed), lines.append) == 30
        return torch.cat([weight.detach().flatten() for weight in model.parameters()]), lines

    weights, lines = trained(0)
    assert lines[-1].startswith("step 30/30: loss ")
    assert float(lines[-1].split("loss ")[1].split(",")[0]) < 3.5  # log(258) = 5.6 before training
    assert torch.equal(weights, trained(0)[0])
    assert not torch.equal(weights, trained(1)[0])


def test_training_stops_at_its_target() -> None:
    model = build_model(tokenizer, layers=1, width=32)
    lines: list[str] = []
    done = train(model, tokenizer, prompts, replace(QUICK, check_every=10, target=0.0), lines.append)
    assert done == 10
    assert "pass@1 0.000 on training prompts (target 0.0)" in lines[-1]


def test_batched_sampling_with_padding_agrees_with_one_prompt_at_a_time() -> None:
    """The same text for a short prompt alone and beside a long one: padding must not be seen."""
    model = build_model(tokenizer, layers=2, width=32, seed=3)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(20)  # what a token attends to decides what comes next
        model.model.norm.weight.mul_(200)  # so peaked that sampling is greedy
    short, long = (min(prompts, key=lambda p: len(p.tokens)), max(prompts, key=lambda p: len(p.tokens)))
    assert len(short.tokens) < len(long.tokens)
    together = sample(model, tokenizer, [short, long], 2, max_new_tokens=8)
    assert together[0] == sample(model, tokenizer, [short], 2, max_new_tokens=8)[0]
    assert together[0][0] == together[0][1] != together[1][0]


def test_sampling_is_seeded_and_leaves_the_global_random_state_alone() -> None:
    model = build_model(tokenizer, layers=1, width=32)
    state = torch.get_rng_state()
    first = sample(model, tokenizer, prompts[:3], 4, seed=1, max_new_tokens=8)
    assert [len(texts) for texts in first] == [4, 4, 4]
    assert first == sample(model, tokenizer, prompts[:3], 4, seed=1, max_new_tokens=8)
    assert first != sample(model, tokenizer, prompts[:3], 4, seed=2, max_new_tokens=8)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_measured_figures_count_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_setpo.tasks import warm_start

    truth = polynomial.Problem(1, 3, 7).ground_truth("tiny")
    two = [Prompt(polynomial, truth, [1]), Prompt(polynomial, truth, [1])]
    responses = [["(1,11)", "(01,11)", "(0,7)", "(0,8)"], ["(0,7)", "(0,7)", "", "(2,0)"]]
    monkeypatch.setattr(warm_start, "sample", lambda *args, **kwargs: responses)
    figures = measure(None, None, two, num_samples=4)
    assert (figures.pass_at_1, figures.distinct_correct, figures.parsed) == (5 / 8, 1.5, 7 / 8)


@pytest.mark.parametrize("task", ["polynomial", "countdown"])
def test_warm_start_never_sees_the_held_out_prompts(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_setpo.tasks import make_model
    from verl_setpo.tasks.data import read_dataset

    write_dataset(tmp_path / "data", task, train_size=40, test_size=10, seed=0, style="tiny")
    _, train_rows, test_rows = read_dataset(tmp_path / "data")
    seen: list[Prompt] = []

    def spying_train(model, tokenizer, prompts, config, report):
        seen.extend(prompts)
        return train(model, tokenizer, prompts, config, report)

    monkeypatch.setattr(make_model, "train", spying_train)
    make_tiny_model(task, tmp_path / "data", tmp_path / "model", steps=3, layers=1, width=32, report=lambda line: None)
    assert {prompt.ground_truth for prompt in seen} == {row["reward_model"]["ground_truth"] for row in train_rows}
    assert not {prompt.ground_truth for prompt in seen} & {row["reward_model"]["ground_truth"] for row in test_rows}


def test_defaults_cover_every_task() -> None:
    from verl_setpo.tasks.rewards import TASKS

    assert set(DEFAULTS) == set(TASKS)
