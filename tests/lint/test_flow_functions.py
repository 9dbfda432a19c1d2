"""Functions: closures, what is handed on, callables as values, dispatch."""

from __future__ import annotations

import pytest

from tests.lint.test_flow import expected, findings

PROGRAMS = {
    "nonlocal": """
        def main():
            m = base()
            def wrap():
                nonlocal m
                m = get_peft_model(m, cfg)
            wrap()
            return PeftModel.from_pretrained(m, "x")  #! LD101
        main()
    """,
    "a closure sees the later value": """
        def main():
            m = base()
            def load():
                return PeftModel.from_pretrained(m, "x")  #! LD101
            m = get_peft_model(m, cfg)
            return load()
        main()
    """,
    "a closure returned": """
        def maker(m):
            def load(path):
                return PeftModel.from_pretrained(m, path)  #! LD101
            return load
        load = maker(get_peft_model(base(), cfg))
        load("x")
    """,
    "a closure returned, clean": """
        def maker(m):
            def load(path):
                return PeftModel.from_pretrained(m, path)
            return load
        load = maker(base())
        load("x")
    """,
    "two closures of one maker": """
        def maker(m):
            def load(path):
                return PeftModel.from_pretrained(m, path)  #! LD101 warning
            return load
        one = maker(base())
        two = maker(get_peft_model(base(), cfg))
        one("x")
        two("x")
    """,
    "namedtuple and tuple returns": """
        def build():
            tok = object()
            m = get_peft_model(base(), cfg)
            return m, tok
        m, tok = build()
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "dict return": """
        def build():
            return {"model": get_peft_model(base(), cfg), "tok": 1}
        b = build()
        PeftModel.from_pretrained(b["model"], "x")  #! LD101
    """,
    "decorators that keep": """
        import functools
        def timed(f):
            @functools.wraps(f)
            def inner(*args, **kwargs):
                r = f(*args, **kwargs)
                return r
            return inner
        @timed
        def build():
            return get_peft_model(base(), cfg)
        PeftModel.from_pretrained(build(), "x")  #! LD101
    """,
    "decorators lru cache: one and the same": """
        from functools import lru_cache
        @lru_cache
        def load():
            return base()
        get_peft_model(load(), cfg)
        PeftModel.from_pretrained(load(), "x")
    """,
    "contextmanager function": """
        from contextlib import contextmanager
        @contextmanager
        def loaded():
            m = get_peft_model(base(), cfg)
            yield m
        with loaded() as m:
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "contextmanager function clean": """
        from contextlib import contextmanager
        @contextmanager
        def loaded():
            m = base()
            try:
                yield m
            finally:
                del m
        with loaded() as m:
            PeftModel.from_pretrained(m, "x")
    """,
    "the handler loads again after a partial load": """
        def load(m):
            try:
                m = PeftModel.from_pretrained(m, "x")
            except Exception:
                m = PeftModel.from_pretrained(m, "y")
            return m
        load(base())
    """,
    "walrus": """
        if (m := get_peft_model(base(), cfg)) is not None:
            PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "walrus guard": """
        def go(args):
            m = base()
            if (path := args.path):
                m = PeftModel.from_pretrained(m, path)
            else:
                m = get_peft_model(m, cfg)
            if not path:
                m.train()
            else:
                m = get_peft_model(m, cfg)  #! LD102
    """,
    "partial": """
        from functools import partial
        wrap = partial(get_peft_model, peft_config=cfg)
        m = wrap(base())
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "partial positional of own function": """
        import functools
        def load(m, path):
            return PeftModel.from_pretrained(m, path)  #! LD101
        resume = functools.partial(load, get_peft_model(base(), cfg))
        resume("x")
    """,
    "lambda": """
        wrap = lambda m: get_peft_model(m, cfg)
        PeftModel.from_pretrained(wrap(base()), "x")  #! LD101
    """,
    "lambda default": """
        wrap = lambda m, c=cfg: get_peft_model(m, c)
        PeftModel.from_pretrained(wrap(base()), "x")  #! LD101
    """,
    "getattr literal method": """
        m = get_peft_model(base(), cfg)
        getattr(m, "merge_and_unload")()  #! LD301
        m.save_pretrained("x")
    """,
    "getattr field": """
        class Run: pass
        r = Run()
        r.model = get_peft_model(base(), cfg)
        PeftModel.from_pretrained(getattr(r, "model"), "x")  #! LD101
        PeftModel.from_pretrained(getattr(r, "model", None), "x")  #! LD101
    """,
    "setattr field": """
        class Run: pass
        r = Run()
        setattr(r, "model", get_peft_model(base(), cfg))
        PeftModel.from_pretrained(r.model, "x")  #! LD101
    """,
    "getattr module function": """
        import peft
        m = getattr(peft, "get_peft_model")(base(), cfg)
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "star args": """
        args = (get_peft_model(base(), cfg), "x")
        PeftModel.from_pretrained(*args)  #! LD101
    """,
    "star args forwarded": """
        def load(*args, **kwargs):
            return PeftModel.from_pretrained(*args, **kwargs)  #! LD101
        load(get_peft_model(base(), cfg), "x", is_trainable=True)
    """,
    "star args forwarded clean": """
        def load(*args, **kwargs):
            return PeftModel.from_pretrained(*args, **kwargs)
        m = load(base(), "x", is_trainable=True)
        Trainer(model=m).train()
    """,
    "dict dispatch": """
        def fresh(m): return get_peft_model(m, cfg)
        def resume(m): return PeftModel.from_pretrained(m, "x")  #! LD101
        HOW = {"fresh": fresh, "resume": resume}
        m = HOW["fresh"](base())
        m = HOW["resume"](m)
    """,
    "dict dispatch unknown key": """
        def fresh(m): return get_peft_model(m, cfg)
        def resume(m): return PeftModel.from_pretrained(m, "x")
        HOW = {"fresh": fresh, "resume": resume}
        def go(mode):
            m = HOW[mode](base())
            return m
    """,
    "dict dispatch get": """
        def fresh(m): return get_peft_model(m, cfg)
        HOW = {"fresh": fresh}
        def go(mode):
            m = HOW.get(mode, fresh)(base())
            return PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "dict of classes": """
        LOADERS = {"causal": AutoModelForCausalLM}
        m = LOADERS["causal"].from_pretrained("gpt2")
        m = get_peft_model(m, cfg)
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "globals dispatch": """
        def fresh(m): return get_peft_model(m, cfg)
        m = globals()["fresh"](base())
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "globals stored": """
        globals()["m"] = get_peft_model(base(), cfg)
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "map over": """
        def load(p):
            return PeftModel.from_pretrained(b, p)  #! LD110 warning
        b = base()
        ms = list(map(load, ["x", "y"]))
    """,
    "threads": """
        import threading
        def work(m):
            PeftModel.from_pretrained(m, "x")  #! LD101
        t = threading.Thread(target=work, args=(get_peft_model(base(), cfg),))
        t.start()
    """,
    "notebook_launcher": """
        from accelerate import notebook_launcher
        b = base()
        def train():
            m = get_peft_model(b, cfg)
            m = PeftModel.from_pretrained(m, "x")  #! LD101
        notebook_launcher(train, args=(), num_processes=2)
    """,
    "mp.spawn": """
        import torch.multiprocessing as mp
        def main(rank, world):
            m = get_peft_model(base(), cfg)
            m = PeftModel.from_pretrained(m, "x")  #! LD101
        mp.spawn(main, args=(2,), nprocs=2)
    """,
    "asyncio main": """
        import asyncio
        async def main():
            m = get_peft_model(base(), cfg)
            m = await load(m)
        async def load(m):
            return PeftModel.from_pretrained(m, "x")  #! LD101
        asyncio.run(main())
    """,
    "recursive helper": """
        def unwrap(m):
            if hasattr(m, "module"):
                return unwrap(m.module)
            return m
        m = get_peft_model(base(), cfg)
        m = unwrap(m)
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "callable passed": """
        def apply(f, m):
            return f(m)
        m = apply(lambda x: get_peft_model(x, cfg), base())
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "library callable passed": """
        def apply(f, m, c):
            return f(m, c)
        m = apply(get_peft_model, base(), cfg)
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "bound method taken": """
        load = PeftModel.from_pretrained
        m = load(get_peft_model(base(), cfg), "x")  #! LD101
    """,
    "bound method of object taken": """
        m = get_peft_model(base(), cfg)
        merge = m.merge_and_unload
        merge()  #! LD301
        m.save_pretrained("x")
    """,
    "swap": """
        a, b = base(), get_peft_model(base(), cfg)
        a, b = b, a
        PeftModel.from_pretrained(a, "x")  #! LD101
        PeftModel.from_pretrained(b, "x")
    """,
    "starred unpack": """
        m, *rest = get_peft_model(base(), cfg), 1, 2
        PeftModel.from_pretrained(m, "x")  #! LD101
        *rest, n = 1, 2, get_peft_model(base(), cfg)
        PeftModel.from_pretrained(n, "x")  #! LD101
    """,
    "chained assign": """
        a = b = get_peft_model(base(), cfg)
        PeftModel.from_pretrained(b, "x")  #! LD101
    """,
    "annotated": """
        m: PeftModel = get_peft_model(base(), cfg)
        n: PeftModel
        n = PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "or default": """
        def f(m=None):
            m = m or get_peft_model(base(), cfg)
            return m
        PeftModel.from_pretrained(f(), "x")  #! LD101
    """,
    "if none default": """
        def f(m=None):
            if m is None:
                m = get_peft_model(base(), cfg)
            return m
        PeftModel.from_pretrained(f(), "x")  #! LD101
        PeftModel.from_pretrained(f(base()), "x")
    """,
    "decorated by torch.no_grad": """
        @torch.no_grad()
        def build():
            return get_peft_model(base(), cfg)
        PeftModel.from_pretrained(build(), "x")  #! LD101
    """,
    "decorated unknown": """
        from other import cached
        @cached
        def build():
            return get_peft_model(base(), cfg)
        PeftModel.from_pretrained(build(), "x")  #! LD101
    """,
    "singledispatch": """
        from functools import singledispatchmethod
        class Run:
            @singledispatchmethod
            def go(self, m):
                return get_peft_model(m, cfg)
        PeftModel.from_pretrained(Run().go(base()), "x")  #! LD101
    """,
    "walrus in while": """
        m = base()
        while (path := next_path()) is not None:
            m = PeftModel.from_pretrained(m, path)  #! LD101 warning
    """,
    "recursive list building": """
        def build(n, acc):
            if n == 0:
                return acc
            acc.append(get_peft_model(base(), cfg))
            return build(n - 1, acc)
        ms = build(3, [])
    """,
    "getattr with a default on a plain object": """
        def f(trainer):
            m = getattr(trainer, "model", None) or base()
            return get_peft_model(m, cfg)
    """,
    "two calls of a small helper": """
        def checked(path):
            path = os.path.abspath(path)
            if not path: raise ValueError(path)
            return path
        def main(b, lora):
            first = checked(b); second = checked(lora)
            m = AutoModelForCausalLM.from_pretrained(first)
            m = PeftModel.from_pretrained(m, second)
            m.merge_and_unload().save_pretrained("out")
    """,
    "two calls of a helper with the same arguments": """
        def resume(args):
            flag = args.path
            return flag
        def main(args):
            m = base()
            if resume(args):
                m = PeftModel.from_pretrained(m, "x")
            if not resume(args):
                m = get_peft_model(m, cfg)
            return m
    """,
    "two readings of different files": """
        import json
        def read(path):
            with open(path) as f:
                data = json.load(f)
            PeftModel
            return data["model"]
        def main():
            m = AutoModelForCausalLM.from_pretrained(read("a"))
            m = PeftModel.from_pretrained(m, read("b"))
            m.merge_and_unload().save_pretrained("out")
    """,
    "class registry by decorator": """
        REGISTRY = {}
        def register(name):
            def add(f):
                REGISTRY[name] = f
                return f
            return add
        @register("lora")
        def lora(m):
            return get_peft_model(m, cfg)
        m = REGISTRY["lora"](base())
        PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "a decorator that loads first": """
        def with_adapter(f):
            def inner(m, *args):
                return f(get_peft_model(m, cfg), *args)
            return inner
        @with_adapter
        def resume(m, path):
            return PeftModel.from_pretrained(m, path)  #! LD101
        resume(base(), "x")
    """,
    "setattr loop": """
        class Run:
            def __init__(self, **kw):
                for k, v in kw.items():
                    setattr(self, k, v)
            def load(self): return PeftModel.from_pretrained(self.model, "x")  #! LD101
        Run(model=get_peft_model(base(), cfg)).load()
    """,
    "partial method on self": """
        from functools import partial
        class Run:
            def wrap(self, m, c): return get_peft_model(m, c)
            def go(self):
                w = partial(self.wrap, c=cfg)
                return PeftModel.from_pretrained(w(base()), "x")  #! LD101
        Run().go()
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert findings(PROGRAMS[name]) == expected(PROGRAMS[name])
