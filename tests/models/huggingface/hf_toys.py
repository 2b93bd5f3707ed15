"""Tiny decoders of several architectures with random weights, built from their configurations, offline."""

import torch

from megacontext.models.huggingface import HuggingFaceBase
from megacontext.models.huggingface.library import transformers

VOCABULARY = 97
WINDOW = 4
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
CONFIGS = {
    "llama": ("LlamaConfig", SHAPE),
    "llama3-rope": (
        "LlamaConfig",
        SHAPE
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
    "dynamic-rope": (
        "LlamaConfig",
        SHAPE | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}},
    ),
    "qwen2": ("Qwen2Config", SHAPE),
    "qwen3": ("Qwen3Config", SHAPE),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        | {"initializer_range": 0.3},
    ),
    "mistral": ("MistralConfig", SHAPE | {"sliding_window": WINDOW}),
    # Sharpens with the position itself.
    "ministral3": ("Ministral3Config", SHAPE),
    "gemma2": (
        "Gemma2Config",
        SHAPE | {"sliding_window": WINDOW, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        SHAPE
        | {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
}


def causal_lm(config_class: str, seed: int = 0, **shape: object):
    """A model of transformers with random weights; equal seeds give equal weights."""
    library = transformers()
    config = getattr(library, config_class)(**shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return library.AutoModelForCausalLM.from_config(config).float().eval()


def base_of(name: str) -> HuggingFaceBase:
    config_class, shape = CONFIGS[name]
    return HuggingFaceBase(causal_lm(config_class, **shape))


TEXT = "to be or not to be, that is the question. what is it? it is a tiny model; it says what it says. "
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(template: str | None = TEMPLATE):
    """A tokenizer of transformers' with all bytes, a few merges and two special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TEXT], trainer)
    tokenizer = transformers().PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def save_model(folder, template: str | None = TEMPLATE, **changes: object):
    """A tiny random Llama with its tokenizer, in a folder of Hugging Face's format."""
    tokenizer = byte_tokenizer(template)
    model = causal_lm("LlamaConfig", **(SHAPE | {"vocab_size": len(tokenizer), "eos_token_id": 1} | changes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
