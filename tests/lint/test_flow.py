"""The executor, seen through the rules: small programs, and what is known at the line that matters.

`#!` marks the lines where exactly the named codes are expected; every other line must stay silent.
"""

from __future__ import annotations

import re
import textwrap

import pytest

from loradoctor import engine, registry
from loradoctor.lint.module import analyse
from loradoctor.lint.source import Source

PRELUDE = """\
import torch, argparse, os, copy
from peft import PeftModel, LoraConfig, get_peft_model, PeftConfig, PromptTuningConfig, set_peft_model_state_dict
from peft import prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments
from trl import SFTTrainer
def base(): return AutoModelForCausalLM.from_pretrained("gpt2")
cfg = LoraConfig(task_type="CAUSAL_LM")
"""


def text_of(program: str) -> str:
    return PRELUDE + textwrap.dedent(program).lstrip("\n")


def findings(program: str) -> dict[int, list[str]]:
    module = analyse(Source.from_bytes("program.py", text_of(program).encode()))
    found: dict[int, list[str]] = {}
    for d in engine.run(registry.family("lint"), module, "program.py"):
        assert d.location.span
        mark = d.code + ("" if d.severity.value == "error" else f" {d.severity}")
        found.setdefault(d.location.span.line, []).append(mark)
    return found


def expected(program: str) -> dict[int, list[str]]:
    lines = text_of(program).splitlines()
    marks = {n: re.findall(r"#! (LD\d+(?: warning| info)?)", line) for n, line in enumerate(lines, 1)}
    return {n: found for n, found in marks.items() if found}


PROGRAMS = {
    "an alias is the same model": """
        m = base()
        same = m
        get_peft_model(m, cfg)
        w = get_peft_model(same, cfg)  #! LD102 warning
    """,
    "import aliases are resolved": """
        import peft as P
        from peft import get_peft_model as wrap
        from peft.peft_model import PeftModel as Loader
        m = wrap(base(), P.LoraConfig())
        m = Loader.from_pretrained(m, "x")  #! LD101
    """,
    "an import alias in a function and under a condition": """
        from peft import get_peft_model as wrap
        def build(fresh):
            m = base()
            if fresh:
                m = wrap(m, cfg)
            return m
        m = PeftModel.from_pretrained(build(True), "x")  #! LD101
        n = PeftModel.from_pretrained(build(unknown), "x")  #! LD101 warning
    """,
    "a star import brings the library's names": """
        from peft import *
        m = get_peft_model(base(), LoraConfig())
        m = PeftModelForCausalLM.from_pretrained(m, "x")  #! LD101
    """,
    "nested in one expression": """
        m = PeftModel.from_pretrained(get_peft_model(base(), cfg), "x")  #! LD101
    """,
    "the arms of a branch never meet": """
        def load(resume):
            m = base()
            if resume:
                m = PeftModel.from_pretrained(m, "x", is_trainable=True)
            else:
                m = get_peft_model(m, cfg)
            return m
    """,
    "one arm wraps, the next line loads: sometimes": """
        def load(fresh):
            m = base()
            if fresh:
                m = get_peft_model(m, cfg)
            return PeftModel.from_pretrained(m, "x")  #! LD101 warning
    """,
    "contradicting guards never meet": """
        args = argparse.ArgumentParser().parse_args()
        m = base()
        if args.fresh:
            m = get_peft_model(m, cfg)
        print(m)
        if not args.fresh:
            m = PeftModel.from_pretrained(m, "x")
    """,
    "guards on None never meet": """
        def load(path):
            m = base()
            if path is None:
                m = get_peft_model(m, cfg)
            if path is not None:
                m = PeftModel.from_pretrained(m, path)
            return m
    """,
    "a string option with three values": """
        def load(mode):
            m = base()
            if mode == "fresh":
                m = get_peft_model(m, cfg)
            elif mode == "resume":
                m = PeftModel.from_pretrained(m, "x")
            if mode == "resume":
                m.eval()
            return m
    """,
    "a string option in one of several": """
        def load(mode):
            m = base()
            if mode in ("fresh", "again"):
                m = get_peft_model(m, cfg)
            if mode == "resume":
                m = PeftModel.from_pretrained(m, "x")
            if mode == "again":
                m = PeftModel.from_pretrained(m, "x")  #! LD101
            return m
    """,
    "agreeing guards do meet": """
        args = argparse.ArgumentParser().parse_args()
        m = base()
        if args.fresh:
            m = get_peft_model(m, cfg)
        if args.fresh:
            m = PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "an early return under a guard": """
        def load(fresh):
            m = base()
            if fresh:
                return get_peft_model(m, cfg)
            return PeftModel.from_pretrained(m, "x")
    """,
    "an early raise under a guard": """
        def load(fresh):
            m = base()
            if fresh:
                m = get_peft_model(m, cfg)
                raise SystemExit
            return PeftModel.from_pretrained(m, "x")
    """,
    "sys.exit ends the path": """
        import sys
        def load(fresh):
            m = base()
            if fresh:
                m = get_peft_model(m, cfg)
                sys.exit(0)
            return PeftModel.from_pretrained(m, "x")
    """,
    "both settings of a switch are followed": """
        RESUME = False
        m = get_peft_model(base(), cfg)
        if RESUME:
            m = PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "one switch, two tests": """
        USE_LORA = True
        m = base()
        if USE_LORA:
            m = get_peft_model(m, cfg)
        if not USE_LORA:
            m = PeftModel.from_pretrained(m, "x")
    """,
    "a helper's result is followed": """
        def build():
            m = base()
            m = get_peft_model(m, cfg)
            return m
        model = build()
        model = PeftModel.from_pretrained(model, "x")  #! LD101
    """,
    "a helper changes its argument in place": """
        def add(m):
            get_peft_model(m, cfg)
        model = base()
        add(model)
        Trainer(model=model)  #! LD201
    """,
    "a helper is judged by its caller's values": """
        def load(m):
            return PeftModel.from_pretrained(m, "x")
        load(base())
    """,
    "a helper called once wrongly": """
        def load(m):
            return PeftModel.from_pretrained(m, "x")  #! LD101 warning
        load(base())
        load(get_peft_model(base(), cfg))
    """,
    "keyword arguments reach parameters": """
        def load(*, path, model):
            return PeftModel.from_pretrained(model, path)  #! LD101
        load(model=get_peft_model(base(), cfg), path="x")
    """,
    "self carries the model": """
        class Run:
            def __init__(self):
                self.model = get_peft_model(base(), cfg)
            def resume(self):
                self.model = PeftModel.from_pretrained(self.model, "x")  #! LD101
    """,
    "a method called by another": """
        class Run:
            def build(self):
                self.model = get_peft_model(base(), cfg)
            def go(self):
                self.build()
                self.model.merge_and_unload()  #! LD301
                self.model.save_pretrained("x")
        Run().go()
    """,
    "inheritance within the file": """
        class Base:
            def __init__(self):
                self.model = get_peft_model(base(), cfg)
        class Run(Base):
            def __init__(self):
                super().__init__()
                PeftModel.from_pretrained(self.model, "x")  #! LD101
        Run()
    """,
    "a trainer subclass is a trainer": """
        class MyTrainer(Trainer):
            def compute_loss(self, model, inputs):
                return model(**inputs).loss
        m = base()
        w = get_peft_model(m, cfg)
        MyTrainer(model=m)  #! LD201
    """,
    "a trainer subclass with a constructor of its own": """
        class MyTrainer(Trainer):
            def __init__(self, *args, beta=0.1, **kwargs):
                super().__init__(*args, **kwargs)
                self.beta = beta
        m = base()
        w = get_peft_model(m, cfg)
        MyTrainer(model=w, beta=0.2).train()
    """,
    "closures see the model": """
        def main():
            m = get_peft_model(base(), cfg)
            def resume():
                return PeftModel.from_pretrained(m, "x")  #! LD101
            return resume()
        main()
    """,
    "global variables": """
        model = None
        def build():
            global model
            model = get_peft_model(base(), cfg)
        build()
        PeftModel.from_pretrained(model, "x")  #! LD101
    """,
    "a loop meets its own last turn": """
        m = base()
        for r in (4, 8, 16):
            w = get_peft_model(m, LoraConfig(r=r))  #! LD102 warning
    """,
    "a loop that reloads is clean": """
        for r in (4, 8, 16):
            m = base()
            w = get_peft_model(m, LoraConfig(r=r))
    """,
    "a loop over one thing runs once": """
        m = base()
        for r in [8]:
            w = get_peft_model(m, LoraConfig(r=r))
    """,
    "a loop that breaks runs once": """
        m = base()
        while True:
            w = get_peft_model(m, cfg)
            break
    """,
    "try, else retry with a fresh one": """
        m = base()
        try:
            m = PeftModel.from_pretrained(m, "x")
        except ValueError:
            m = get_peft_model(m, cfg)
    """,
    "match": """
        def load(mode):
            m = base()
            match mode:
                case "fresh":
                    m = get_peft_model(m, cfg)
                case _:
                    m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "unpacking and with": """
        m, other = get_peft_model(base(), cfg), 1
        with torch.no_grad():
            n = PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "a conditional expression": """
        def load(fresh):
            m = get_peft_model(base(), cfg) if fresh else base()
            return PeftModel.from_pretrained(m, "x")  #! LD101 warning
    """,
    "isinstance guards": """
        def load(m):
            if isinstance(m, PeftModel):
                return m
            return get_peft_model(m, cfg)
        load(load(base()))
    """,
    "unload frees the base": """
        b = base()
        m = PeftModel.from_pretrained(b, "x")
        b = m.unload()
        m = PeftModel.from_pretrained(b, "y")
    """,
    "merge, then a new adapter": """
        m = PeftModel.from_pretrained(base(), "x").merge_and_unload()
        m = get_peft_model(m, cfg)
    """,
    "a copied base is clean": """
        b = base()
        one = get_peft_model(copy.deepcopy(b), cfg)
        two = get_peft_model(copy.deepcopy(b), cfg)
    """,
    "prompt tuning leaves the base clean": """
        b = base()
        m = get_peft_model(b, PromptTuningConfig(task_type="CAUSAL_LM"))
        n = PeftModel.from_pretrained(b, "x")
    """,
    "an unknown function may have thawed it": """
        from elsewhere import thaw
        m = PeftModel.from_pretrained(base(), "x")
        thaw(m)
        Trainer(model=m).train()
    """,
    "arguments by **kwargs could be anything": """
        def load(**options):
            m = PeftModel.from_pretrained(base(), "x", **options)
            Trainer(model=m).train()
    """,
    "a dict of arguments is known": """
        options = {"is_trainable": True}
        m = PeftModel.from_pretrained(base(), "x", **options)
        Trainer(model=m).train()
    """,
    "a flag passed through": """
        def load(train):
            return PeftModel.from_pretrained(base(), "x", is_trainable=train)
        Trainer(model=load(True)).train()
        Trainer(model=load(False)).evaluate()
    """,
    "evaluation is not training": """
        m = PeftModel.from_pretrained(base(), "x")
        Trainer(model=m).evaluate()
    """,
    "trained frozen": """
        m = PeftModel.from_pretrained(base(), "x")  #! LD104
        Trainer(model=m).train()
    """,
    "thawed by hand": """
        m = PeftModel.from_pretrained(base(), "x")
        for name, p in m.named_parameters():
            if "lora" in name:
                p.requires_grad = True
        Trainer(model=m).train()
    """,
    "thawed by hand, by either of two names": """
        m = PeftModel.from_pretrained(base(), "x")
        for name, p in m.named_parameters():
            if "lora" in name or "Lora" in name:
                p.requires_grad = True
        Trainer(model=m).train()
    """,
    "thawed by hand, by what is computed from the name": """
        m = PeftModel.from_pretrained(base(), "x")
        for name, p in m.named_parameters():
            wanted = any(part in name for part in ("lora", "score"))
            if wanted:
                p.requires_grad = True
        Trainer(model=m).train()
    """,
    "thawed by hand, layer by layer": """
        m = PeftModel.from_pretrained(base(), "x")
        for name, layer in m.named_modules():
            if "lora_A" in name or "lora_B" in name:
                for p in layer.parameters():
                    p.requires_grad = True
        Trainer(model=m).train()
    """,
    "the first is loaded, the others join it": """
        def load_all(m, paths):
            for i, path in enumerate(paths):
                if i == 0:
                    m = PeftModel.from_pretrained(m, path, adapter_name=str(path))
                else:
                    m.load_adapter(path, adapter_name=str(path))
            return m
    """,
    "the first is loaded, the others join it, by index": """
        def load_all(m, paths):
            for i in range(len(paths)):
                if not i:
                    m = PeftModel.from_pretrained(m, paths[i], adapter_name=str(paths[i]))
                else:
                    m.load_adapter(paths[i], adapter_name=str(paths[i]))
            return m
    """,
    "counting from one": """
        def load_all(m, paths):
            for i, path in enumerate(paths, start=1):
                if i >= 1:
                    m = PeftModel.from_pretrained(m, path)  #! LD101 warning
            return m
    """,
    "a pair made anew in every turn": """
        from elsewhere import load_both
        def compare(names):
            for name in names:
                tokenizer, m = load_both("m")
                if name == "trained":
                    m = PeftModel.from_pretrained(m, "x")
                else:
                    m = get_peft_model(m, cfg)
    """,
    "quantized, then dequantized by hand": """
        import bitsandbytes as bnb
        def dequantize(model):
            for name, layer in model.named_modules():
                if isinstance(layer, bnb.nn.Linear4bit):
                    parent, child = bnb.utils.parent_of(model, name)
                    setattr(parent, child, torch.nn.Linear(layer.in_features, layer.out_features))
            model.is_loaded_in_4bit = False
            return model
        b = AutoModelForCausalLM.from_pretrained("m", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
        b = dequantize(b)
        m = PeftModel.from_pretrained(b, "x").merge_and_unload()
        m.save_pretrained("merged")
    """,
    "a reference model that is insisted on": """
        from trl import DPOTrainer
        policy, reference = base(), base()
        DPOTrainer(
            policy,
            reference,
            peft_config=cfg,
            force_use_ref_model=True,  #! LD440
        ).train()
    """,
    "a method that is asked for first": """
        m = base()
        if hasattr(m, "print_trainable_parameters"):
            m.print_trainable_parameters()
    """,
    "adapter layers replaced by hand": """
        from peft.tuners import lora as layers
        m = PeftModel.from_pretrained(base(), "x")
        for key in [k for k, _ in m.base_model.model.named_modules() if "lora" not in k]:
            parent, target, name = m.base_model._get_submodules(key)
            if isinstance(target, layers.Linear):
                m.base_model._replace_module(parent, name, torch.nn.Linear(2, 2), target)
        m = m.base_model.model
        m.save_pretrained("merged")
    """,
    "a new adapter in a wrapper that was emptied": """
        m = PeftModel.from_pretrained(base(), "x", adapter_name="old")
        m.merge_and_unload()  #! LD301 info
        m.add_adapter("new", cfg)
        m.set_adapter("new")
        Trainer(model=m).train()
        m.save_pretrained("out")
    """,
    "frozen by hand, all of it": """
        m = get_peft_model(base(), cfg)
        for p in m.parameters():
            p.requires_grad = False  #! LD203
        Trainer(model=m).train()
    """,
    "frozen by hand, all but the adapter": """
        m = get_peft_model(base(), cfg)
        for n, p in m.named_parameters():
            if "lora" not in n:
                p.requires_grad = False
        Trainer(model=m).train()
    """,
    "frozen by hand, but for one part": """
        m = get_peft_model(base(), cfg)
        m.requires_grad_(False)
        for p in m.get_model().projector.parameters():
            p.requires_grad = True
        Trainer(model=m).train()
    """,
    "frozen before wrapping": """
        b = base()
        b.requires_grad_(False)
        m = get_peft_model(b, cfg)
        Trainer(model=m).train()
    """,
    "the optimizer holds filtered parameters": """
        b = base()
        opt = torch.optim.AdamW(filter(lambda p: p.requires_grad, b.parameters()), lr=1e-4)  #! LD202
        m = get_peft_model(b, cfg)
        for batch in range(3):
            m(batch).loss.backward()
            opt.step()
    """,
    "the optimizer in a list of groups": """
        b = base()
        opt = torch.optim.AdamW([{"params": [p for p in b.parameters() if p.requires_grad]}], lr=1e-4)  #! LD202
        m = get_peft_model(b, cfg)
        opt.step()
    """,
    "an optimizer of its own": """
        m = get_peft_model(base(), cfg)
        opt = torch.optim.AdamW(m.parameters())
        opt.step()
    """,
    "the trainer attribute is reassigned": """
        t = Trainer(model=get_peft_model(base(), cfg))
        t.train()
        t.model = t.model.merge_and_unload()
        t.save_model("x")
    """,
    "merged through the trainer": """
        t = Trainer(model=get_peft_model(base(), cfg))
        t.train()
        merged = t.model.merge_and_unload()
        t.save_model("x")  #! LD302
    """,
    "the base under another name is saved": """
        b = base()
        m = PeftModel.from_pretrained(b, "x")
        m.merge_and_unload()
        b.save_pretrained("merged")
    """,
    "the inner model after the merge": """
        m = PeftModel.from_pretrained(base(), "x")
        m.merge_and_unload()
        m.base_model.model.save_pretrained("merged")
    """,
    "chained": """
        PeftModel.from_pretrained(base(), "x").merge_and_unload().save_pretrained("merged")
    """,
    "inner model saved": """
        m = PeftModel.from_pretrained(base(), "x")
        m.base_model.model.save_pretrained("merged")  #! LD303
    """,
    "the same path by composition": """
        def run(out):
            m = get_peft_model(base(), cfg)
            path = os.path.join(out, "model.pt")
            torch.save(m, path)
            base().load_state_dict(torch.load(f"{out}/model.pt"))  #! LD106
    """,
    "another path": """
        def run(out):
            m = get_peft_model(base(), cfg)
            torch.save(m, os.path.join(out, "model.pt"))
            base().load_state_dict(torch.load(os.path.join(out, "other.pt")))
    """,
    "quantized by a variable": """
        bits = BitsAndBytesConfig(load_in_4bit=True)
        b = AutoModelForCausalLM.from_pretrained("x", quantization_config=bits)
        m = PeftModel.from_pretrained(b, "y").merge_and_unload()  #! LD320 warning
    """,
    "quantized by a table of arguments that other options add to": """
        def load(eight, device):
            kwargs = {"device_map": "auto"}
            if eight:
                kwargs["load_in_8bit"] = True
            if device != "cuda":
                kwargs["device_map"] = {"": device}
            if device == "xpu":
                kwargs = {**kwargs, "low_cpu_mem_usage": True}
            b = AutoModelForCausalLM.from_pretrained("x", **kwargs)  #! LD440
            return PeftModel.from_pretrained(b, "y").merge_and_unload()  #! LD320 warning
        load(True, "cpu")
    """,
    "quantized or not": """
        args = argparse.ArgumentParser().parse_args()
        b = AutoModelForCausalLM.from_pretrained("x", quantization_config=BitsAndBytesConfig(load_in_4bit=args.bits == 4))
        m = PeftModel.from_pretrained(b, "y").merge_and_unload()
    """,
    "a trainer that wraps the base itself": """
        b = base()
        t = SFTTrainer(model=b, peft_config=cfg)
        t.train()
        t.model.save_pretrained("x")
        t.model.merge_and_unload().save_pretrained("y")
    """,
    "an adapter copied by hand into a model without one": """
        from peft import get_peft_model_state_dict
        w = get_peft_model(base(), cfg)
        Trainer(model=w).train()
        plain = base()
        for key, value in get_peft_model_state_dict(w).items():
            if key in plain.state_dict():  #! LD105
                plain.state_dict()[key].data.copy_(value)
        for key, value in get_peft_model_state_dict(w).items():
            print(key in w.state_dict(), value.shape)
    """,
    "a trainer that unsloth has put its own in the place of": """
        from unsloth import FastLanguageModel
        m, tok = FastLanguageModel.from_pretrained("unsloth/x", load_in_4bit=True)
        m = FastLanguageModel.get_peft_model(m, r=16)
        args = TrainingArguments("x", warmup_ratio=0.1, learning_rate=2e-4)
        SFTTrainer(model=m, tokenizer=tok, dataset_text_field="text", packing=False, args=args).train()
    """,
    "the same trainer as it comes": """
        m = get_peft_model(base(), cfg)
        SFTTrainer(model=m, dataset_text_field="text").train()  #! LD440
    """,
    "a name called model is not a model": """
        model = dict(weights=1)
        model.update(adapter=2)
        model = sorted(model)
    """,
    "another library's method of the same name": """
        from megatron import Bridge
        bridge = Bridge()
        ctx = bridge.disable_adapter()
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert findings(PROGRAMS[name]) == expected(PROGRAMS[name])


def test_deep_nesting_ends() -> None:
    depth = 90
    nest = "".join("    " * n + f"if x{n}:\n" for n in range(depth))
    assert findings(f"m = base()\n{nest}{'    ' * depth}m.eval()\n") == {}


def test_many_branches_end() -> None:
    """Two hundred independent options that each matter do not multiply."""
    lines = [f"if args.a{n}:\n    m = get_peft_model(m, cfg)" for n in range(200)]
    found = findings("args = argparse.ArgumentParser().parse_args()\nm = base()\n" + "\n".join(lines) + "\n")
    assert {code for codes in found.values() for code in codes} == {"LD102 warning"}


def test_recursion_ends() -> None:
    assert findings("def again(m):\n    return again(get_peft_model(m, cfg))\nagain(base())\n") == {}


def test_every_pattern_of_a_library_table_begins_with_the_names_of_libraries() -> None:
    from loradoctor.lint.libraries import _tables

    _, patterns, _ = _tables()
    assert all(library.isidentifier() for library in patterns), sorted(patterns)
