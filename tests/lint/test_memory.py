"""What a statement did is done again from its record: nothing tells that from running it."""

from pathlib import Path

import pytest

from loradoctor.lint.flow import memory
from loradoctor.lint.module import analyse
from loradoctor.lint.source import Source

FIXTURES = Path(__file__).parents[2] / "fixtures" / "lint"
SCRIPTS = sorted(p for p in FIXTURES.rglob("*") if p.suffix in (".py", ".ipynb"))

LOOPS = """
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

def wrap(model, rank):
    if rank:
        return get_peft_model(model, LoraConfig(r=rank))
    return model

def main(args):
    model = AutoModelForCausalLM.from_pretrained(args.base)
    if args.rank:
        model = wrap(model, args.rank)
    if args.frozen and not args.resume:
        for name, param in model.named_parameters():
            if "lora" not in name:
                param.requires_grad = False
    elif args.resume:
        model = PeftModel.from_pretrained(model, args.resume)
    best = None
    for epoch in range(args.epochs):
        for batch in args.data:
            loss = model(**batch).loss
            loss.backward()
            if epoch == 0 and best is None:
                best = lambda: loss
            if args.rank and batch is not None:
                model.save_pretrained(args.out)
        with torch.no_grad():
            model = wrap(model, 0)
    try:
        merged = model.merge_and_unload()
    except ValueError:
        merged = model
    merged.save_pretrained(args.out)

main(parse())
main(parse())
"""


def _told(source):
    module = analyse(source)
    trace = module.trace
    visits = [(v.node.uid, v.name, v.step, repr(v.result), [(oid, repr(facts)) for oid, facts in v.heap.items()]) for v in trace.visits]
    stores = [(s.node.uid, s.name, [repr(facts) for facts in s.heap.values()]) for s in trace.stores]
    events = {key: [node.uid for node in nodes] for key, nodes in trace.events.items()}
    return visits, stores, events, trace.defaults, trace.complete, trace.followed


def _is_same(source, monkeypatch):
    told = _told(source)
    monkeypatch.setattr(memory, "look", lambda *_, **__: None)
    return told == _told(source)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(FIXTURES)))
def test_a_run_with_records_tells_the_same(path, monkeypatch):
    source = Source.read(str(path))
    try:
        analyse(source)
    except ValueError:
        pytest.skip("it does not parse")

    assert _is_same(source, monkeypatch)


def test_loops_and_worlds_are_told_the_same(monkeypatch):
    assert _is_same(Source.from_bytes("train.py", LOOPS.encode()), monkeypatch)


def test_statements_of_a_loop_are_done_again(monkeypatch):
    done, again = [], memory.again
    monkeypatch.setattr(memory, "again", lambda *args: done.append(args[1]) or again(*args))

    analyse(Source.from_bytes("train.py", LOOPS.encode()))
    assert len(done) > 20
