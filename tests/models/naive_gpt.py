"""nanochat's arithmetic a second time, for every dialect: slow, plain, float64, one entry and one head after another.

Written from the contract alone and sharing no code with megacontext, so that a misreading has to be made twice to pass.
An entry is an int (a token) or a vector (a gist); the policy for gists is MegaContext's own.
"""

import math

import numpy as np

# Day from which it was so: softcap, RoPE base, factor on q and k, channels and factor of value gates, short window.
FACTS = {
    "classic": (15, 10_000, 1.0, None, None, None),
    "2025-12-09": (15, 10_000, 1.0, None, None, None),
    "2026-01-11": (15, 10_000, 1.0, None, None, lambda seq: seq // 2),
    "2026-01-16": (15, 10_000, 1.0, 32, 2.0, lambda seq: seq // 2),
    "2026-03-02": (20, 10_000, 1.0, 32, 2.0, lambda seq: seq // 2),
    "2026-03-09": (15, 100_000, 1.15, 12, 3.0, lambda seq: math.ceil(seq / 3 / 128) * 128),
    "current": (15, 100_000, 1.2, 12, 3.0, lambda seq: math.ceil(seq / 4 / 128) * 128),
}


def norm(x):
    return x / math.sqrt(float(np.mean(x * x)) + float(np.finfo(np.float32).eps))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def turn(x, position, base):
    """RoPE: component j and component j + half turn together by position / base^(2j / D)."""
    half = len(x) // 2
    y = np.empty_like(x)
    for j in range(half):
        angle = position / base ** (2 * j / len(x))
        y[j] = x[j] * math.cos(angle) + x[j + half] * math.sin(angle)
        y[j + half] = -x[j] * math.sin(angle) + x[j + half] * math.cos(angle)
    return y


def windows(dialect, shape):
    """Entries before its own that each layer sees."""
    short = FACTS[dialect][5]
    found = []
    for layer in range(shape["n_layer"]):
        pattern = shape.get("window_pattern", "L")
        letter = "L" if layer == shape["n_layer"] - 1 else pattern[layer % len(pattern)]
        if short is None:
            found.append(10**9)
        else:
            found.append(short(shape["sequence_len"]) if letter == "S" else shape["sequence_len"])
    return found


def naive_logits(weights, dialect, shape, entries, positions=None):
    """Logits, float64 (W, V), of one context, for weights by nanochat's names and a model_config."""
    w = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in weights.items()}
    cap, base, factor, channels, gate_factor, _ = FACTS[dialect]
    layers, heads, kv_heads = shape["n_layer"], shape["n_head"], shape["n_kv_head"]
    size = shape["n_embd"] // heads
    reach = windows(dialect, shape)
    keys = [[[] for _ in range(kv_heads)] for _ in range(layers)]
    values = [[[] for _ in range(kv_heads)] for _ in range(layers)]
    before, logits = None, []
    for t, entry in enumerate(entries):
        position = t if positions is None else positions[t]
        is_token = isinstance(entry, int)
        x = norm(w["transformer.wte.weight"][entry] if is_token else np.asarray(entry, dtype=np.float64))
        plain = x
        if dialect == "current" and before is not None and is_token and before[1]:
            x = x + w["smear_lambda"][0] * sigmoid(w["smear_gate.weight"][0] @ x[:24]) * before[0]
        before = (plain, is_token)
        x0 = x
        for layer in range(layers):
            own = f"transformer.h.{layer}."
            if "resid_lambdas" in w:
                x = w["resid_lambdas"][layer] * x + w["x0_lambdas"][layer] * x0
            xn = norm(x)
            q, k, v = (w[f"{own}attn.c_{which}.weight"] @ xn for which in "qkv")
            for head in range(kv_heads):
                part = slice(head * size, (head + 1) * size)
                key, value = norm(turn(k[part], position, base)) * factor, v[part]
                if channels and (layers - 1 - layer) % 2 == 0 and is_token:
                    gate = gate_factor * sigmoid(w[f"{own}attn.ve_gate.weight"][head] @ xn[:channels])
                    value = value + gate * w[f"value_embeds.{layer}.weight"][entry][part]
                keys[layer][head].append(key)
                values[layer][head].append(value)
            attended = []
            for head in range(heads):
                query = norm(turn(q[head * size : (head + 1) * size], position, base)) * factor
                shared = head // (heads // kv_heads)
                seen = [s for s in range(t + 1) if t - s <= reach[layer]]
                scores = np.array([query @ keys[layer][shared][s] / math.sqrt(size) for s in seen])
                share = np.exp(scores - scores.max())
                share /= share.sum()
                attended.append(sum(p * values[layer][shared][s] for p, s in zip(share, seen, strict=True)))
            x = x + w[f"{own}attn.c_proj.weight"] @ np.concatenate(attended)
            inner = np.maximum(w[f"{own}mlp.c_fc.weight"] @ norm(x), 0) ** 2
            x = x + w[f"{own}mlp.c_proj.weight"] @ inner
            if layer == layers // 2:
                middle = x
        if dialect == "current":
            x = x - w["backout_lambda"][0] * middle
        raw = w["lm_head.weight"] @ norm(x)
        logits.append(cap * np.tanh(raw[: shape["vocab_size"]] / cap))
    return np.array(logits)
