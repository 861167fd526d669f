"""A model small enough to train on one CPU core in minutes, in a form that transformers, verl and vLLM all load.

It is a Qwen3 decoder with a byte-level tokenizer. What that needs to work everywhere:
- transformers loads the tokenizer of a Qwen model as Qwen2Tokenizer whatever was saved, so it is one: a byte-level
  BPE of the 256 bytes and no merges, in which "\\n" is one token, as verl expects of a Qwen tokenizer;
- verl also looks up <|im_end|>, which is the eos token here; pad is another token, <|endoftext|>;
- vLLM's attention on CPUs supports heads of 32, 64, 80, ... only. Qwen3 sets the size of a head apart from the width,
  so that a width of 64 can have eight heads of 32: arithmetic was learned about twice as fast as with two.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

HEAD_SIZE = 32
MAX_POSITIONS = 512
RECORD = "warm_start.json"
PAD_TOKEN = "<|endoftext|>"
EOS_TOKEN = "<|im_end|>"

# The user's text and a newline, then the answer: nothing that a tiny model would have to learn to skip.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
)


def build_tokenizer() -> "PreTrainedTokenizerBase":
    """A byte-level tokenizer with 256 byte tokens, pad and eos: ids 0 to 257."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokens = [*sorted(ByteLevel.alphabet()), PAD_TOKEN, EOS_TOKEN]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        unk_token=PAD_TOKEN,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
    )


def build_model(
    tokenizer: "PreTrainedTokenizerBase", *, layers: int = 3, width: int = 64, seed: int = 0
) -> "Qwen3ForCausalLM":
    """An untrained model in float32, with 214,000 parameters by default.

    Args:
        layers: decoder layers.
        width: hidden size. There are 8 heads of 32, which share 2 key-value heads, and an MLP of 2 x width.
        seed: of the weights. The global random state of torch is left as it was.

    Raises ValueError for a size below 1.
    """
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    for name, size in (("layers", layers), ("width", width)):
        if size < 1:
            raise ValueError(f"--{name} is {size}: give at least 1")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=HEAD_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        # 0.02, the usual value, suits widths of thousands; a narrow model learns faster from larger weights.
        initializer_range=0.5 * width**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    # top_k=0: sample from the whole distribution, as verl does. transformers would take the best 50 tokens.
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=0, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> list[int]:
    """The tokens of a prompt as verl's rollout makes them: by the chat template, with the generation prompt."""
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))


def save(model: "Qwen3ForCausalLM", tokenizer: "PreTrainedTokenizerBase", folder: Path, record: dict) -> None:
    """Write model, tokenizer and `record` (how it was made and what was measured) into an existing folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
