"""Several adapters in one model, merges and wrappers: what the rules about them must tell apart.

`#!` marks the lines where exactly the named codes are expected; every other line must stay silent, hints aside.
"""

from __future__ import annotations

import pytest

from tests.lint.test_flow import expected, findings

IMPORTS = """
from peft import AutoPeftModelForCausalLM, IA3Config, PrefixTuningConfig, get_peft_model_state_dict
from torch.nn.parallel import DistributedDataParallel as DDP
def loaded(**o): return PeftModel.from_pretrained(base(), "a", **o)
"""

PROGRAMS = {
    "used through a helper with unpacked arguments": """
        def answer(m, batch): return m.generate(**batch)
        m = loaded()
        m.load_adapter("b", adapter_name="b")  #! LD113
        answer(m, {"input_ids": 1})
    """,
    "rows choose their adapter": """
        m = loaded()
        m.load_adapter("b", adapter_name="b")
        m.generate(1, adapter_names=["b"])
    """,
    "a name that is only known at run time": """
        def run(name, batch):
            m = loaded()
            m.load_adapter("b", adapter_name=name)
            return m.generate(**batch)
    """,
    "activated on one of two paths": """
        def run(second, batch):
            m = loaded()
            m.load_adapter("b", adapter_name="b")
            if second:
                m.set_adapter("b")
            return m.generate(**batch)
    """,
    "merged by name": """
        m = loaded()
        m.load_adapter("b", adapter_name="b")
        m.merge_and_unload(True, False, ["b"]).save_pretrained("x")
    """,
    "a combination uses what was loaded": """
        m = loaded()
        m.load_adapter("b", adapter_name="b")
        m.add_weighted_adapter(["default", "b"], [1.0, 1.0], "mix")  #! LD326
        m.merge_and_unload().save_pretrained("x")
    """,
    "a combination through the tuner": """
        m = loaded()
        m.base_model.add_weighted_adapter(["default"], [2.0], "mix")  #! LD326
        m.generate(1)
    """,
    "a combination that is saved and not used": """
        m = loaded()
        m.add_weighted_adapter(["default"], [2.0], "mix")
        m.save_pretrained("x")
    """,
    "names": """
        m = loaded()
        m.load_adapter("b")  #! LD114
        m.add_adapter("v1.0", cfg)  #! LD114
        m.set_adapter(["default", "v1"])  #! LD115
        base().load_adapter("b")
    """,
    "loaded over a name that was never used": """
        m = loaded()
        m.load_adapter("b", adapter_name="default")  #! LD114 warning
    """,
    "checkpoints in turn under one name": """
        m = loaded()
        for path in ("b", "c"):
            m.load_adapter(path, adapter_name="default")
            m.generate(1)
    """,
    "used before it is replaced": """
        m = loaded()
        m.generate(1)
        m.load_adapter("b", adapter_name="default")
        m.generate(1)
    """,
    "a mixed model takes lists and methods": """
        m = get_peft_model(base(), cfg, mixed=True)
        m.add_adapter("b", IA3Config(task_type="CAUSAL_LM"))
        m.set_adapter(["default", "b"])
        m.save_pretrained("x")  #! LD118
    """,
    "adapter_names in training and after eval": """
        m = get_peft_model(base(), cfg)
        m(1, adapter_names=["default"])  #! LD118
        n = get_peft_model(base(), cfg)
        n.eval()
        n(1, adapter_names=["default"])
    """,
    "trained first, added later": """
        m = get_peft_model(base(), cfg)
        Trainer(model=m).train()
        m.add_adapter("b", cfg)
    """,
    "a frozen adapter and a new one that nothing activates is one finding": """
        m = PeftModel.from_pretrained(base(), "a")  #! LD104
        m.add_adapter("b", cfg)
        Trainer(model=m).train()
    """,
    "a frozen adapter and a new one": """
        m = loaded()
        m.add_adapter("b", cfg)
        m.set_adapter("b")
        Trainer(model=m).train()
    """,
    "frozen, activated, trained: that is what was wanted": """
        m = loaded()
        m.load_adapter("b", adapter_name="b")
        m.requires_grad_(False)
        m.set_adapter("b")
        Trainer(model=m).train()
    """,
    "frozen on purpose when loading": """
        m = loaded(is_trainable=False)
        m.set_adapter("default")
        n = PeftModel.from_pretrained(base(), "x", is_trainable=False)
        n.set_adapter("default")  #! LD224 warning
    """,
    "prepared for quantized training is not frozen on purpose": """
        m = prepare_model_for_kbit_training(loaded())
        m.load_adapter("b", adapter_name="b")
        m.set_adapter("b")
        m.generate(1)
    """,
    "compiled under another name": """
        b = base()
        fast = torch.compile(b)
        m = get_peft_model(b, cfg)
        m.save_pretrained("x")
    """,
    "compiled on demand": """
        def run(fast):
            m = base()
            if fast:
                m = torch.compile(m)
            return get_peft_model(m, cfg)  #! LD117 warning
    """,
    "compiled in one expression": """
        m = get_peft_model(torch.compile(base()), cfg)  #! LD117
    """,
    "saved through the wrapper, and past it": """
        def run(parallel):
            m = get_peft_model(base(), cfg)
            inner = m
            if parallel:
                m = torch.nn.DataParallel(m)
            m.save_pretrained("x")  #! LD307
            inner.save_pretrained("x")
            (m.module if parallel else m).save_pretrained("x")
    """,
    "the state dict of the wrapper": """
        m = DDP(get_peft_model(base(), cfg))
        torch.save(get_peft_model_state_dict(m), "x.pt")  #! LD307
        torch.save(get_peft_model_state_dict(m.module), "x.pt")
    """,
    "None in the place of the model": """
        class Run:
            def __init__(self):
                self.model = get_peft_model(base(), cfg)
                self.model = self.model.enable_input_require_grads()  #! LD306
        Run()
        m = loaded()
        result = m.load_adapter("b", adapter_name="b")
        m.set_adapter("b")
        _ = m.print_trainable_parameters()
    """,
    "another library's adapters": """
        from adapters import AutoAdapterModel
        m = AutoAdapterModel.from_pretrained("gpt2")
        m = m.load_adapter("x")
        m = m.add_adapter("y")
    """,
    "the same adapter on the merged model": """
        def run(path):
            b = loaded().merge_and_unload()
            m = PeftModel.from_pretrained(b, "other")
            n = PeftModel.from_pretrained(base(), path).merge_and_unload()
            n.save_pretrained("merged")
            again = AutoModelForCausalLM.from_pretrained("merged")
            return PeftModel.from_pretrained(again, path)  #! LD322
    """,
    "adapters merged one after another": """
        m = base()
        for path in ("a", "b"):
            m = PeftModel.from_pretrained(m, path).merge_and_unload()
    """,
    "a named adapter lies one folder deeper": """
        m = get_peft_model(base(), cfg, adapter_name="b")
        Trainer(model=m).train()
        m.save_pretrained("x")
        AutoPeftModelForCausalLM.from_pretrained("x")  #! LD111
        PeftModel.from_pretrained(base(), "x/b")
        PeftModel.from_pretrained(base(), "x", subfolder="b")
    """,
    "a tuner is no base": """
        t = SFTTrainer(model=base(), peft_config=cfg)
        t.train()
        t.save_model("x")
        m = PeftModel.from_pretrained(t.model.base_model, "x")  #! LD116
        n = base()
        n.base_model.eval()
    """,
    "an adapter's directory as the base": """
        def ask(path): return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), path).generate(1)
        def export(path):
            m = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), path)  #! LD107
            m.merge_and_unload().save_pretrained("merged")
    """,
    "a prompt cannot be merged": """
        def run(lora):
            c = cfg if lora else PrefixTuningConfig(task_type="CAUSAL_LM")
            m = get_peft_model(base(), c)
            return m.merge_and_unload()  #! LD323
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    program = IMPORTS + "\n".join(line.removeprefix("        ") for line in PROGRAMS[name].strip("\n").splitlines())
    errors = {line: kept for line, marks in findings(program).items() if (kept := [m for m in marks if not m.endswith(" info")])}
    assert errors == expected(program)
