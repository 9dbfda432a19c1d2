"""Containers, comprehensions, generators and contexts."""

from __future__ import annotations

import pytest

from tests.lint.test_flow import expected, findings

PROGRAMS = {
    "dict attribute stored": """
        state = {}
        state["model"] = get_peft_model(base(), cfg)
        PeftModel.from_pretrained(state["model"], "x")  #! LD101
    """,
    "comprehension over a list wraps the base again": """
        b = base()
        models = [get_peft_model(b, LoraConfig(r=r)) for r in (4, 8)]  #! LD102 warning
    """,
    "comprehension reloading": """
        models = [get_peft_model(base(), LoraConfig(r=r)) for r in (4, 8)]
    """,
    "dict comprehension wraps the base again": """
        b = base()
        models = {r: get_peft_model(b, LoraConfig(r=r)) for r in (4, 8)}  #! LD102 warning
    """,
    "comprehension loads each adapter onto the same base": """
        b = base()
        models = {p: PeftModel.from_pretrained(b, p) for p in ("x", "y")}  #! LD110 warning
    """,
    "comprehension over one": """
        b = base()
        models = [get_peft_model(b, LoraConfig(r=r)) for r in (4,)]
    """,
    "element of a comprehension is the model": """
        ms = [get_peft_model(base(), LoraConfig(r=r)) for r in (4, 8)]
        PeftModel.from_pretrained(ms[0], "x")  #! LD101
    """,
    "element of a comprehension looped": """
        ms = [get_peft_model(base(), LoraConfig(r=r)) for r in (4, 8)]
        for m in ms:
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "list of models looped": """
        ms = [get_peft_model(base(), cfg), get_peft_model(base(), cfg)]
        for m in ms:
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "append in loop": """
        ms = []
        for r in (4, 8):
            ms.append(get_peft_model(base(), LoraConfig(r=r)))
        for m in ms:
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "comprehension variable does not leak": """
        m = base()
        [m for m in [get_peft_model(base(), cfg)]]
        PeftModel.from_pretrained(m, "x")
    """,
    "generator iterated": """
        def models():
            m = base()
            yield get_peft_model(m, cfg)
        for m in models():
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "generator next": """
        def models():
            m = base()
            yield get_peft_model(m, cfg)
        m = next(models())
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "generator base reload": """
        def models():
            for r in (4, 8):
                yield get_peft_model(base(), LoraConfig(r=r))
        for m in models():
            m.save_pretrained("x")
    """,
    "generator shares base": """
        def models(b):
            for r in (4, 8):
                yield get_peft_model(b, LoraConfig(r=r))  #! LD102 warning
        for m in models(base()):
            print(m)
    """,
    "with multiple": """
        with open("x") as f, torch.no_grad():
            m = get_peft_model(base(), cfg)
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "zip enumerate dict items": """
        models = {"a": get_peft_model(base(), cfg), "b": get_peft_model(base(), cfg)}
        for name, m in models.items():
            PeftModel.from_pretrained(m, "x")  #! LD101
        for m in models.values():
            PeftModel.from_pretrained(m, "x")  #! LD101
        for m, p in zip(models.values(), ["x", "y"]):
            PeftModel.from_pretrained(m, p)  #! LD101
    """,
    "generator next twice does not rewrap": """
        b = base()
        def models():
            yield get_peft_model(b, cfg)
        m = next(models())
        m.save_pretrained("x")
    """,
    "yield from": """
        def inner():
            yield get_peft_model(base(), cfg)
        def outer():
            yield from inner()
        for m in outer():
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "list of a generator": """
        def models():
            yield get_peft_model(base(), cfg)
        for m in list(models()):
            PeftModel.from_pretrained(m, "x")  #! LD101
        ms = [m for m in models()]
        PeftModel.from_pretrained(ms[0], "x")  #! LD101
    """,
    "a context manager that unloads when left": """
        from contextlib import contextmanager
        @contextmanager
        def adapted(b):
            m = get_peft_model(b, cfg)
            try:
                yield m
            finally:
                back = m.unload()
        b = base()
        with adapted(b) as m:
            Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4)).train()
        n = PeftModel.from_pretrained(b, "x")
    """,
    "break leaves a generator": """
        def models():
            for r in (4, 8):
                yield get_peft_model(base(), LoraConfig(r=r))
        for m in models():
            break
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "return in a with": """
        from contextlib import contextmanager
        @contextmanager
        def quiet():
            yield
        def build():
            with quiet():
                return get_peft_model(base(), cfg)
        PeftModel.from_pretrained(build(), "x")  #! LD101
    """,
    "comprehension filtered": """
        paths = [p for p in os.listdir("runs") if p.startswith("adapter")]
        for p in paths:
            m = PeftModel.from_pretrained(base(), p)
    """,
    "nested comprehension": """
        grid = [(r, a) for r in (4, 8) for a in (8, 16)]
        for r, a in grid:
            m = get_peft_model(base(), LoraConfig(r=r, lora_alpha=a))
    """,
    "nested comprehension of wraps": """
        b = base()
        ms = [get_peft_model(b, LoraConfig(r=r, lora_alpha=a)) for r in (4, 8) for a in (8, 16)]  #! LD102 warning
    """,
    "any and all over parameters": """
        m = get_peft_model(base(), cfg)
        n = sum(p.numel() for p in m.parameters() if p.requires_grad)
        assert any(p.requires_grad for p in m.parameters())
        t = Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4))
        t.train()
    """,
    "a generator of batches in a training loop": """
        def batches(data):
            for start in range(0, len(data), 8):
                yield data[start:start + 8]
        def main(data):
            m = get_peft_model(base(), cfg)
            opt = torch.optim.AdamW(m.parameters(), lr=1e-4)
            for epoch in range(3):
                for batch in batches(data):
                    m(batch).loss.backward()
                    opt.step()
            m.save_pretrained("x")
    """,
    "compare adapters in a dict comprehension of outputs": """
        def answer(m, q): return m.generate(q)
        b = base()
        m = PeftModel.from_pretrained(b, "x", adapter_name="one")
        m.load_adapter("y", adapter_name="two")
        out = {}
        for name in ("one", "two"):
            m.set_adapter(name)
            out[name] = answer(m, "q")
    """,
    "list of callbacks by comprehension and star": """
        parts = [("lora", cfg), ("other", cfg)]
        for name, c in parts:
            m = get_peft_model(base(), c)
            m.save_pretrained(name)
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert findings(PROGRAMS[name]) == expected(PROGRAMS[name])
