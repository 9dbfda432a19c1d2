"""Ways through a program: `match`, `try`, loops."""

from __future__ import annotations

import pytest

from tests.lint.test_flow import expected, findings

PROGRAMS = {
    "match literal decided by subject": """
        def load(mode):
            m = base()
            match mode:
                case "fresh":
                    m = get_peft_model(m, cfg)
                case "resume":
                    m = PeftModel.from_pretrained(m, "x")
                case _:
                    raise ValueError(mode)
            if mode == "fresh":
                m = PeftModel.from_pretrained(m, "x")  #! LD101
            return m
    """,
    "match then another match": """
        def load(mode):
            m = base()
            match mode:
                case "fresh":
                    m = get_peft_model(m, cfg)
                case _:
                    pass
            match mode:
                case "resume":
                    m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "match with or pattern": """
        def load(mode):
            m = base()
            match mode:
                case "fresh" | "new":
                    m = get_peft_model(m, cfg)
                case "resume":
                    m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "match known": """
        MODE = "fresh"
        def load(mode):
            m = base()
            match mode:
                case "fresh":
                    m = get_peft_model(m, cfg)
                case "resume":
                    pass
            return m
        PeftModel.from_pretrained(load("fresh"), "x")  #! LD101
        PeftModel.from_pretrained(load("resume"), "x")
    """,
    "match a class pattern": """
        def load(m):
            match m:
                case PeftModel():
                    return m
                case _:
                    return get_peft_model(m, cfg)
        load(load(base()))
    """,
    "try wraps, handler reports, then load": """
        m = base()
        try:
            m = get_peft_model(m, cfg)
        except RuntimeError as e:
            print(e)
        m = PeftModel.from_pretrained(m, "x")  #! LD101 warning
    """,
    "try with finally": """
        m = base()
        try:
            m = get_peft_model(m, cfg)
        finally:
            print("done")
        m = PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "try with return in body and finally": """
        def f():
            m = base()
            try:
                m = get_peft_model(m, cfg)
                return m
            finally:
                print("done")
        PeftModel.from_pretrained(f(), "x")  #! LD101
    """,
    "finally saves the merged": """
        def f():
            m = get_peft_model(base(), cfg)
            try:
                Trainer(model=m).train()
                return 1
            except KeyboardInterrupt:
                return 0
            finally:
                m.merge_and_unload()  #! LD301
                m.save_pretrained("x")
        f()
    """,
    "raise inside try is caught": """
        def f(path):
            m = base()
            try:
                if not path:
                    raise ValueError
                m = PeftModel.from_pretrained(m, path)
            except ValueError:
                m = get_peft_model(m, cfg)
            return m
        f("x")
    """,
    "except reraises": """
        m = base()
        try:
            import bitsandbytes
        except ImportError:
            m = get_peft_model(m, cfg)
            raise
        m = PeftModel.from_pretrained(m, "x")
    """,
    "try else": """
        m = base()
        try:
            import flash_attn
        except ImportError:
            pass
        else:
            m = get_peft_model(m, cfg)
        m = PeftModel.from_pretrained(m, "x")  #! LD101 warning
    """,
    "for folds with base made outside": """
        b = base()
        for fold in range(5):
            model = get_peft_model(b, cfg)  #! LD102 warning
            Trainer(model=model).train()
    """,
    "for folds with model its own": """
        model = base()
        for fold in range(5):
            model = get_peft_model(model, cfg)  #! LD102 warning
            Trainer(model=model).train()
    """,
    "for folds, unloaded": """
        b = base()
        for fold in range(5):
            model = get_peft_model(b, cfg)
            Trainer(model=model).train()
            b = model.unload()
    """,
    "for folds in a function": """
        def run(b, fold):
            model = get_peft_model(b, cfg)  #! LD102 warning
            Trainer(model=model).train()
        b = base()
        for fold in range(5):
            run(b, fold)
    """,
    "for folds, base by function": """
        def run(fold):
            b = base()
            model = get_peft_model(b, cfg)
            Trainer(model=model).train()
        for fold in range(5):
            run(fold)
    """,
    "for folds: deepcopy": """
        b = base()
        for fold in range(5):
            model = get_peft_model(copy.deepcopy(b), cfg)
            Trainer(model=model).train()
    """,
    "wrapped at the first epoch only": """
        m = base()
        wrapped = False
        for epoch in range(5):
            if not wrapped:
                m = get_peft_model(m, cfg)
                wrapped = True
            m.train()
    """,
    "wrapped at epoch 0": """
        m = base()
        for epoch in range(5):
            if epoch == 0:
                m = get_peft_model(m, cfg)
            m.train()
    """,
    "three turns needed": """
        a = b = c = base()
        one, two = base(), base()
        for i in range(5):
            if i > 1:
                PeftModel.from_pretrained(two, "x")  #! LD101 warning
            two = one
            one = get_peft_model(base(), cfg)
    """,
    "while not done": """
        m = base()
        while not done():
            m = get_peft_model(m, cfg)  #! LD102 warning
    """,
    "while True with break later": """
        m = base()
        while True:
            m = get_peft_model(m, cfg)  #! LD102 warning
            if ok(m):
                break
    """,
    "while True retry": """
        while True:
            try:
                m = base()
                m = get_peft_model(m, cfg)
                break
            except RuntimeError:
                continue
        m = PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "for else": """
        m = base()
        for p in ("x", "y"):
            if os.path.exists(p):
                m = PeftModel.from_pretrained(m, p)
                break
        else:
            m = get_peft_model(m, cfg)
        m.train()
    """,
    "continue": """
        for p in ("x", "y"):
            m = base()
            if p == "x":
                m = get_peft_model(m, cfg)
                continue
            m = PeftModel.from_pretrained(m, p)
    """,
    "loop index guard": """
        m = base()
        for step in range(10):
            if step > 0:
                m = PeftModel.from_pretrained(m, "x")  #! LD101
            else:
                m = get_peft_model(m, cfg)
    """,
    "enum match": """
        from enum import Enum
        class Mode(Enum):
            FRESH = 1
            RESUME = 2
        def main(mode: Mode):
            m = base()
            match mode:
                case Mode.FRESH:
                    m = get_peft_model(m, cfg)
                case Mode.RESUME:
                    m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "while counter": """
        i = 0
        b = base()
        while i < 3:
            m = get_peft_model(b, cfg)  #! LD102 warning
            i += 1
    """,
    "finally over a return": """
        def f():
            m = get_peft_model(base(), cfg)
            try:
                return m
            finally:
                n = PeftModel.from_pretrained(m, "x")  #! LD101
        f()
    """,
    "else after a try that returns": """
        def main(path):
            try:
                m = PeftModel.from_pretrained(base(), path)
            except OSError:
                return None
            return get_peft_model(m.merge_and_unload(), cfg)
    """,
    "raise caught in the same function": """
        def main(path):
            m = base()
            try:
                m = get_peft_model(m, cfg)
                raise RuntimeError
            except RuntimeError:
                m = PeftModel.from_pretrained(m, path)  #! LD101 warning
    """,
    "early continue on exists": """
        for name in ("a", "b"):
            out = os.path.join("runs", name)
            if os.path.exists(out):
                continue
            m = get_peft_model(base(), cfg)
            Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4)).train()
            m.save_pretrained(out)
    """,
    "what raises for PEFT models": """
        from accelerate.utils import is_peft_model
        def build(m):
            forward = m.forward if not hasattr(m, "get_base_model") else m.get_base_model().forward
            if is_peft_model(m):
                raise ValueError
            return get_peft_model(m, cfg)
    """,
    "a base loaded again in each fold's class": """
        class Fold:
            def __init__(self, n):
                self.m = get_peft_model(base(), cfg)
            def train(self):
                Trainer(model=self.m, args=TrainingArguments("x", learning_rate=1e-4)).train()
                self.m.save_pretrained("x")
        for n in range(5):
            Fold(n).train()
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert findings(PROGRAMS[name]) == expected(PROGRAMS[name])
