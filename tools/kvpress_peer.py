"""KV-pruning presses as a peer: the same windows, the same questions, the same number of positions.

kvpress needs an older transformers than the project does, so it lives in an environment of its own, and what it is
asked goes through files. A press reads the whole window densely and keeps the share of its keys and values that fits
the budget; so it is a peer inside the decoder's window, not beyond it.

    tools/kvpress_peer.py export runs/window > cases.jsonl               # the project's environment
    python -m venv kvpress && kvpress/bin/pip install "transformers<5.3" kvpress==0.5.5
    kvpress/bin/python tools/kvpress_peer.py press cases.jsonl --model FOLDER > pressed.jsonl
    tools/kvpress_peer.py judge cases.jsonl pressed.jsonl                # a row a press, Wilson intervals

RUN is a demo's run with a frozen reader; FOLDER is the decoder's, as transformers reads it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

PRECISION = "float32"
"""Of the decoder: what a CPU without units for bfloat16 is quick in."""
PRESSES = ("StreamingLLMPress", "KnormPress", "SnapKVPress", "ExpectedAttentionPress", "TOVAPress")
ANSWER_TOKENS = 24


def export(run: Path) -> None:
    """A line of JSON a question: ids of the window, of what stands around it, and of the budget that the run had."""
    from megacontext.config import load_recipe
    from megacontext.evals.first_light import FirstLightConfig, prepare

    prepared = prepare(load_recipe(FirstLightConfig, run / "recipe.toml"))
    frame = prepared.bundle.frame
    for history in prepared.histories:
        for number, question in enumerate(history.asked.questions):
            prompt = prepared.bundle.tokenizer.encode(question.prompt)
            case = {
                "history": history.name,
                "question": number,
                "before": frame.opening.tolist(),
                "window": history.asked.ids.tolist(),
                "behind": frame.around(prompt).tolist(),
                "stops": sorted(frame.stops),
                "positions": prepared.config.focus.budget,
                "kind": question.kind,
                "expected": question.answer.strip(),
                "values": list(question.values),
            }
            print(json.dumps(case))


def press(cases: Path, model: str, names: list[str]) -> None:
    """A line of JSON a case and press: what the decoder says when its window has been pressed to the budget."""
    import kvpress
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

    decoder = AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, PRECISION), local_files_only=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    lines = [json.loads(line) for line in cases.read_text(encoding="utf-8").splitlines()]
    for _, of_window in itertools.groupby(lines, key=lambda case: case["history"]):
        questions = list(of_window)
        read = [*questions[0]["before"], *questions[0]["window"]]
        # One size for all questions of a window, so that none of them costs more than the budget.
        behind = max(len(case["behind"]) for case in questions)
        ratio = max(0.0, 1.0 - (questions[0]["positions"] - behind) / len(read))
        for name in names:
            pressed = DynamicCache()
            with torch.inference_mode(), getattr(kvpress, name)(compression_ratio=ratio)(decoder):
                decoder(input_ids=torch.tensor([read]), past_key_values=pressed, use_cache=True)
            for case in questions:
                cache = copy.deepcopy(pressed)
                cost = cache.get_seq_length() + len(case["behind"])
                said, ids, at = [], torch.tensor([case["behind"]]), len(read)
                for _ in range(ANSWER_TOKENS):
                    places = torch.arange(at, at + ids.shape[1])[None]
                    with torch.inference_mode():
                        out = decoder(
                            input_ids=ids, past_key_values=cache, position_ids=places, use_cache=True
                        )
                    token = int(out.logits[0, -1].argmax())
                    if token in case["stops"] or tokenizer.decode([token]) == "\n":
                        break
                    said.append(token)
                    at += ids.shape[1]
                    ids = torch.tensor([[token]])
                told = {"press": name, "positions": cost, "answered": tokenizer.decode(said)}
                print(json.dumps({key: case[key] for key in ("history", "question")} | told), flush=True)


def judge(cases: Path, pressed: Path) -> None:
    """Accuracy of every press, by the rule that the project's own arms are judged by."""
    from megacontext.evals.statistics import wilson
    from megacontext.tasks.spoken import names_only

    known = {}
    for line in cases.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        known[case["history"], case["question"]] = case
    right: dict[str, list[bool]] = defaultdict(list)
    cost: dict[str, list[int]] = defaultdict(list)
    for line in pressed.read_text(encoding="utf-8").splitlines():
        told: dict[str, Any] = json.loads(line)
        case = known[told["history"], told["question"]]
        right[told["press"]].append(names_only(told["answered"], case["expected"], case["values"]))
        cost[told["press"]].append(told["positions"])
    for name, answers in right.items():
        low, high = wilson(sum(answers), len(answers))
        share = sum(answers) / len(answers)
        print(f"{name:24} n {len(answers):4}  {share:.3f}  {low:.3f}-{high:.3f}  positions {max(cost[name])}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("export", help="write the questions of a run")
    one.add_argument("run", type=Path)
    two = commands.add_parser("press", help="answer them, in kvpress's environment")
    two.add_argument("cases", type=Path)
    two.add_argument("--model", required=True)
    two.add_argument("--presses", nargs="+", default=list(PRESSES), choices=PRESSES)
    three = commands.add_parser("judge", help="count what was answered")
    three.add_argument("cases", type=Path)
    three.add_argument("pressed", type=Path)
    given = parser.parse_args()
    if given.command == "export":
        export(given.run)
    elif given.command == "press":
        press(given.cases, given.model, given.presses)
    else:
        judge(given.cases, given.pressed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
