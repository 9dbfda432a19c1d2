"""Classes of the file: `self`, fields, inheritance, `super()`, properties, constructors, context managers."""

from __future__ import annotations

import pytest

from tests.lint.test_flow import expected, findings

PROGRAMS = {
    "self through several methods": """
        class Run:
            def __init__(self, args):
                self.args = args
                self.setup()
            def setup(self):
                self.load()
                self.wrap()
            def load(self):
                self.model = base()
            def wrap(self):
                self.model = get_peft_model(self.model, cfg)
            def resume(self, path):
                self.model = PeftModel.from_pretrained(self.model, path)  #! LD101
        r = Run(1)
        r.resume("x")
    """,
    "self, uncalled methods with setup not in init": """
        class Run:
            def __init__(self, args):
                self.model = base()
            def wrap(self):
                self.model = get_peft_model(self.model, cfg)
            def resume(self, path):
                self.model = PeftModel.from_pretrained(self.model, path)
    """,
    "methods called in a row from outside": """
        class Run:
            def load(self):
                self.model = base()
                return self
            def wrap(self):
                self.model = get_peft_model(self.model, cfg)
                return self
            def resume(self):
                self.model = PeftModel.from_pretrained(self.model, "x")  #! LD101
                return self
        Run().load().wrap().resume()
    """,
    "dataclass fields": """
        from dataclasses import dataclass
        @dataclass
        class Bundle:
            model: object
            path: str = "x"
        b = Bundle(get_peft_model(base(), cfg))
        PeftModel.from_pretrained(b.model, b.path)  #! LD101
    """,
    "dataclass fields clean": """
        from dataclasses import dataclass
        @dataclass
        class Bundle:
            model: object
            path: str = "x"
        b = Bundle(model=base(), path="y")
        PeftModel.from_pretrained(b.model, b.path)
    """,
    "dataclass post init": """
        from dataclasses import dataclass, field
        @dataclass
        class Bundle:
            name: str
            extra: dict = field(default_factory=dict)
            def __post_init__(self):
                self.model = get_peft_model(AutoModelForCausalLM.from_pretrained(self.name), cfg)
        b = Bundle("gpt2")
        PeftModel.from_pretrained(b.model, "x")  #! LD101
    """,
    "a dict on self": """
        class Run:
            def __init__(self):
                self.parts = {}
            def build(self):
                self.parts["model"] = get_peft_model(base(), cfg)
            def load(self):
                PeftModel.from_pretrained(self.parts["model"], "x")  #! LD101
        r = Run()
        r.build()
        r.load()
    """,
    "overridden method": """
        class Base:
            def __init__(self):
                self.model = self.build()
                self.model = PeftModel.from_pretrained(self.model, "x")  #! LD101
            def build(self):
                raise NotImplementedError
        class Run(Base):
            def build(self):
                return get_peft_model(base(), cfg)
        Run()
    """,
    "overridden method, clean": """
        class Base:
            def __init__(self):
                self.model = self.build()
                self.model = PeftModel.from_pretrained(self.model, "x")
            def build(self):
                return get_peft_model(base(), cfg)
        class Run(Base):
            def build(self):
                return base()
        Run()
    """,
    "super method": """
        class Base:
            def build(self):
                return base()
        class Run(Base):
            def build(self):
                return get_peft_model(super().build(), cfg)
        m = Run().build()
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "super with arguments": """
        class Base:
            def __init__(self, m):
                self.m = get_peft_model(m, cfg)
        class Run(Base):
            def __init__(self, m):
                super(Run, self).__init__(m)
                PeftModel.from_pretrained(self.m, "x")  #! LD101
        Run(base())
    """,
    "Base.__init__(self)": """
        class Base:
            def __init__(self, m):
                self.m = get_peft_model(m, cfg)
        class Run(Base):
            def __init__(self, m):
                Base.__init__(self, m)
                PeftModel.from_pretrained(self.m, "x")  #! LD101
        Run(base())
    """,
    "abstract base class": """
        from abc import ABC, abstractmethod
        class Base(ABC):
            @abstractmethod
            def build(self): ...
            def go(self):
                m = self.build()
                return PeftModel.from_pretrained(m, "x")  #! LD101
        class Run(Base):
            def build(self):
                return get_peft_model(base(), cfg)
        Run().go()
    """,
    "diamond mixin": """
        class A:
            def build(self): return base()
        class B(A):
            def build(self): return get_peft_model(super().build(), cfg)
        class C(A):
            def other(self): return 1
        class D(B, C):
            def go(self): return PeftModel.from_pretrained(self.build(), "x")  #! LD101
        D().go()
    """,
    "context manager class": """
        class Loaded:
            def __enter__(self):
                self.m = get_peft_model(base(), cfg)
                return self.m
            def __exit__(self, *exc):
                print(self.m)
        with Loaded() as m:
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "staticmethod classmethod constructors": """
        class Run:
            def __init__(self, model):
                self.model = model
            @classmethod
            def fresh(cls, name):
                return cls(get_peft_model(AutoModelForCausalLM.from_pretrained(name), cfg))
            @staticmethod
            def load(model, path):
                return PeftModel.from_pretrained(model, path)  #! LD101
        r = Run.fresh("gpt2")
        Run.load(r.model, "x")
    """,
    "classmethod constructor through self": """
        class Run:
            @classmethod
            def create(cls):
                self = cls()
                self.model = get_peft_model(base(), cfg)
                return self
            def load(self):
                PeftModel.from_pretrained(self.model, "x")  #! LD101
        Run.create().load()
    """,
    "staticmethod via instance": """
        class Run:
            @staticmethod
            def build():
                return get_peft_model(base(), cfg)
            def go(self):
                m = self.build()
                PeftModel.from_pretrained(m, "x")  #! LD101
        Run().go()
    """,
    "property": """
        class Run:
            def __init__(self):
                self._m = get_peft_model(base(), cfg)
            @property
            def model(self):
                return self._m
            def load(self):
                PeftModel.from_pretrained(self.model, "x")  #! LD101
        Run().load()
    """,
    "property lazily": """
        class Run:
            _m = None
            @property
            def model(self):
                if self._m is None:
                    self._m = get_peft_model(base(), cfg)
                return self._m
            def load(self):
                PeftModel.from_pretrained(self.model, "x")  #! LD101
                return self.model
        Run().load()
    """,
    "property setter": """
        class Run:
            @property
            def model(self):
                return self._m
            @model.setter
            def model(self, value):
                self._m = value
        r = Run()
        r.model = get_peft_model(base(), cfg)
        PeftModel.from_pretrained(r.model, "x")  #! LD101
    """,
    "class attribute": """
        class Run:
            model = get_peft_model(base(), cfg)
        PeftModel.from_pretrained(Run.model, "x")  #! LD101
        PeftModel.from_pretrained(Run().model, "x")  #! LD101
    """,
    "class attribute assigned through cls": """
        class Run:
            model = None
            @classmethod
            def setup(cls):
                cls.model = get_peft_model(base(), cfg)
        Run.setup()
        PeftModel.from_pretrained(Run.model, "x")  #! LD101
    """,
    "__call__": """
        class Build:
            def __init__(self, m): self.m = m
            def __call__(self, path): return PeftModel.from_pretrained(self.m, path)  #! LD101
        b = Build(get_peft_model(base(), cfg))
        b("x")
    """,
    "object passed to function": """
        class Run:
            def __init__(self):
                self.model = get_peft_model(base(), cfg)
        def load(run):
            run.model = PeftModel.from_pretrained(run.model, "x")  #! LD101
        load(Run())
    """,
    "method of a helper that gives a dict of callables": """
        class Factory:
            def __init__(self):
                self.makers = {"lora": self.lora, "none": self.none}
            def lora(self, m):
                return get_peft_model(m, cfg)
            def none(self, m):
                return m
            def make(self, kind):
                return self.makers[kind](base())
        m = Factory().make("lora")
        PeftModel.from_pretrained(m, "x")  #! LD101
        n = Factory().make("none")
        PeftModel.from_pretrained(n, "x")
    """,
    "super of two levels": """
        class A:
            def setup(self): self.m = base()
        class B(A):
            def setup(self):
                super().setup()
                self.m = get_peft_model(self.m, cfg)
        class C(B):
            def setup(self):
                super().setup()
                self.m = PeftModel.from_pretrained(self.m, "x")  #! LD101
        C().setup()
    """,
    "super after another method": """
        class A:
            def __init__(self): self.m = base()
            def log(self): print(self.m)
        class B(A):
            def __init__(self):
                self.log2()
                super().__init__()
                self.m = get_peft_model(self.m, cfg)
            def log2(self):
                get = 1
        b = B()
        PeftModel.from_pretrained(b.m, "x")  #! LD101
    """,
    "base class built with the subclass's methods": """
        class Base:
            def __init__(self):
                self.model = self.build()
            def build(self):
                raise NotImplementedError
            def load(self, path):
                self.model = PeftModel.from_pretrained(self.model, path)  #! LD101 warning
        class Lora(Base):
            def build(self):
                return get_peft_model(base(), cfg)
        class Plain(Base):
            def build(self):
                return base()
        Lora().load("x")
        Plain().load("x")
    """,
    "methods of a base class that is never made": """
        class Base:
            def build(self):
                return get_peft_model(base(), cfg)
            def load(self):
                return PeftModel.from_pretrained(self.build(), "x")  #! LD101
        class Plain(Base):
            def build(self):
                return base()
    """,
    "args by dataclass": """
        from dataclasses import dataclass
        from transformers import HfArgumentParser
        @dataclass
        class Args:
            use_lora: bool = True
            resume: str = None
        def main():
            (args,) = HfArgumentParser(Args).parse_args_into_dataclasses()
            m = base()
            if args.use_lora and args.resume is None:
                m = get_peft_model(m, cfg)
            elif args.use_lora:
                m = PeftModel.from_pretrained(m, args.resume, is_trainable=True)
            if args.resume is not None and args.use_lora:
                m.print_trainable_parameters()
            Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4)).train()
        main()
    """,
    "two classes with the same method": """
        class A:
            def load(self): return get_peft_model(base(), cfg)
        class B:
            def load(self): return base()
        def go(loader):
            return PeftModel.from_pretrained(loader.load(), "x")  #! LD101 warning
        go(A())
        go(B())
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert findings(PROGRAMS[name]) == expected(PROGRAMS[name])
