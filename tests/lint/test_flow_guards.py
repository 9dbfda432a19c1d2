"""Guards: what a path remembers of the tests it passed, and what follows from them."""

from __future__ import annotations

import pytest

from tests.lint.test_flow import expected, findings

PROGRAMS = {
    "two ImportError tries agree": """
        try:
            import unsloth
            HAVE = True
        except ImportError:
            HAVE = False
        m = base()
        if HAVE:
            m = get_peft_model(m, cfg)
        if not HAVE:
            m = PeftModel.from_pretrained(m, "x")
    """,
    "conditional expression correlated": """
        def go(fresh):
            m = base()
            w = get_peft_model(m, cfg) if fresh else m
            return w if fresh else PeftModel.from_pretrained(w, "x")
    """,
    "conditional expression arguments": """
        def go(resume):
            m = base()
            m = PeftModel.from_pretrained(m, "x", is_trainable=True) if resume else get_peft_model(m, cfg)
            Trainer(model=m).train()
    """,
    "args attribute": """
        def main(args):
            m = base()
            if args.use_lora:
                m = get_peft_model(m, cfg)
            tok = 1
            if args.use_lora is False:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "args == True": """
        def main(args):
            m = base()
            if args.use_lora == True:
                m = get_peft_model(m, cfg)
            if not args.use_lora:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "self.args guard": """
        class Run:
            def __init__(self, args):
                self.args = args
                self.model = base()
                if self.args.lora:
                    self.model = get_peft_model(self.model, cfg)
            def resume(self):
                if not self.args.lora:
                    self.model = PeftModel.from_pretrained(self.model, "x")
        def main(args):
            r = Run(args)
            r.resume()
    """,
    "self.flag guard": """
        class Run:
            def __init__(self, lora=True):
                self.lora = lora
                self.model = base()
                if lora:
                    self.model = get_peft_model(self.model, cfg)
            def resume(self):
                if not self.lora:
                    self.model = PeftModel.from_pretrained(self.model, "x")
    """,
    "self.flag guard meets": """
        class Run:
            def __init__(self, lora=True):
                self.lora = lora
                self.model = base()
                if lora:
                    self.model = get_peft_model(self.model, cfg)
            def resume(self):
                if self.lora:
                    self.model = PeftModel.from_pretrained(self.model, "x")  #! LD101
    """,
    "early return under not flag": """
        def main(use_lora, path):
            m = base()
            if not use_lora:
                return m
            m = get_peft_model(m, cfg)
            if use_lora and path:
                m = PeftModel.from_pretrained(m, path)  #! LD101
            return m
    """,
    "and guards": """
        def main(lora, path):
            m = base()
            if lora and path:
                m = PeftModel.from_pretrained(m, path)
            if lora and not path:
                m = get_peft_model(m, cfg)
            return m
    """,
    "and guard then elif": """
        def main(lora, path):
            m = base()
            if lora and path is not None:
                m = PeftModel.from_pretrained(m, path)
            elif lora:
                m = get_peft_model(m, cfg)
            return m
    """,
    "or guards": """
        def main(a, b):
            m = base()
            if a or b:
                m = get_peft_model(m, cfg)
            if not a and not b:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "a flag computed once": """
        def main(args):
            resume = args.path is not None and os.path.exists(args.path)
            m = base()
            if resume:
                m = PeftModel.from_pretrained(m, args.path)
            if not resume:
                m = get_peft_model(m, cfg)
            return m
    """,
    "a flag computed twice": """
        def main(args):
            m = base()
            if args.path is not None and os.path.exists(args.path):
                m = PeftModel.from_pretrained(m, args.path)
            if not (args.path is not None and os.path.exists(args.path)):
                m = get_peft_model(m, cfg)
            return m
    """,
    "os.path.exists twice": """
        def main(path):
            m = base()
            if os.path.exists(path):
                m = PeftModel.from_pretrained(m, path)
            if not os.path.exists(path):
                m = get_peft_model(m, cfg)
            return m
    """,
    "os.path.exists(join)": """
        def main(out):
            m = base()
            if os.path.exists(os.path.join(out, "adapter_config.json")):
                m = PeftModel.from_pretrained(m, out)
            if not os.path.exists(os.path.join(out, "adapter_config.json")):
                m = get_peft_model(m, cfg)
            return m
    """,
    "Path.exists": """
        from pathlib import Path
        def main(path: Path):
            m = base()
            if path.exists():
                m = PeftModel.from_pretrained(m, path)
            if not path.exists():
                m = get_peft_model(m, cfg)
            return m
    """,
    "a library is looked for twice": """
        import importlib.util
        def is_peft_available():
            return importlib.util.find_spec("peft") is not None
        def train(m):
            if not is_peft_available():
                m = base()
            elif is_peft_available():
                m = get_peft_model(m, cfg)
            if not is_peft_available():
                m = PeftModel.from_pretrained(m, "x")
            if is_peft_available():
                m = PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "one element of a loop is the first": """
        def main(paths):
            m = base()
            for path in paths:
                if path == paths[0]:
                    m = PeftModel.from_pretrained(m, path, adapter_name=path)
                else:
                    m.load_adapter(path, adapter_name=path)
    """,
    "one element of a loop is the first, the other way round": """
        def main(pack):
            m = base()
            for number, one in pack:
                if 0 == number:
                    m = get_peft_model(m, cfg)
    """,
    "one element of a loop in every turn of another": """
        def main(seeds, methods):
            m = base()
            for seed in seeds:
                for method in methods:
                    if method == "lora":
                        m = get_peft_model(m, cfg)  #! LD102 warning
    """,
    "elements of a loop are of one kind": """
        def main(stages):
            m = base()
            for stage in stages:
                if stage.kind == "lora":
                    m = get_peft_model(m, cfg)  #! LD102 warning
    """,
    "isinstance unknown": """
        def main(m):
            if not isinstance(m, PeftModel):
                m = get_peft_model(m, cfg)
            if isinstance(m, PeftModel):
                m.print_trainable_parameters()
            return m
    """,
    "isinstance unknown is a peft model": """
        def main(m):
            if isinstance(m, PeftModel):
                m = get_peft_model(m, cfg)  #! LD102
            return m
    """,
    "isinstance guard before load": """
        def main(m, path):
            if isinstance(m, PeftModel):
                m = m.merge_and_unload()
            m = PeftModel.from_pretrained(m, path)
            return m
        main(get_peft_model(base(), cfg), "x")
    """,
    "isinstance tuple": """
        from peft import PeftModelForCausalLM
        def main(m):
            if isinstance(m, (PeftModel, PeftModelForCausalLM)):
                return m
            return get_peft_model(m, cfg)
        main(main(base()))
    """,
    "hasattr peft_config": """
        def main(m, path):
            if hasattr(m, "peft_config"):
                return m
            return get_peft_model(m, cfg)
        main(main(base(), "x"), "y")
    """,
    "hasattr merge_and_unload": """
        def main(m):
            if hasattr(m, "merge_and_unload"):
                m = m.merge_and_unload()
            m.save_pretrained("merged")
            return PeftModel.from_pretrained(m, "x")
        main(get_peft_model(base(), cfg))
        main(base())
    """,
    "getattr default none": """
        def main(m):
            if getattr(m, "peft_config", None) is None:
                m = get_peft_model(m, cfg)
            return m
        main(main(base()))
    """,
    "local_rank 0": """
        def main(local_rank):
            m = get_peft_model(base(), cfg)
            if local_rank == 0:
                m = m.merge_and_unload()
            if local_rank != 0:
                m.train()
            if local_rank == 0:
                m.save_pretrained("out")
    """,
    "local_rank in": """
        def main(local_rank):
            m = get_peft_model(base(), cfg)
            if local_rank in (-1, 0):
                m.merge_and_unload()  #! LD301
                m.save_pretrained("x")
    """,
    "assert": """
        def main(resume):
            m = base()
            m = get_peft_model(m, cfg)
            assert not resume
            if resume:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "assert isinstance": """
        def main(m):
            assert isinstance(m, PeftModel)
            m = get_peft_model(m, cfg)  #! LD102
            return m
    """,
    "assert not None": """
        def main(path):
            m = base()
            if path is None:
                m = get_peft_model(m, cfg)
            assert path is not None
            return PeftModel.from_pretrained(m, path)
    """,
    "peft version guard": """
        import peft
        from packaging import version
        m = base()
        if version.parse(peft.__version__) >= version.parse("0.5.0"):
            m = get_peft_model(m, cfg)
        else:
            m = PeftModel.from_pretrained(m, "x")
        if version.parse(peft.__version__) < version.parse("0.5.0"):
            m = PeftModel.from_pretrained(m, "x")
    """,
    "removed api in a version branch": """
        import peft, transformers
        from packaging import version
        from packaging.version import parse, Version
        b = base()
        if version.parse(peft.__version__) < version.parse("0.10"):
            from peft import prepare_model_for_int8_training
            b = prepare_model_for_int8_training(b)
        else:
            b = prepare_model_for_kbit_training(b)
        if parse(transformers.__version__) < Version("4.46"):
            args = TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
        else:
            args = TrainingArguments("x", eval_strategy="epoch", learning_rate=1e-4)
        if transformers.__version__ < "4.30":
            args = TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
    """,
    "removed api by tuple": """
        import transformers
        if tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 46):
            args = TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
        else:
            args = TrainingArguments("x", eval_strategy="epoch", learning_rate=1e-4)
    """,
    "removed api by is_version": """
        from transformers.utils import is_peft_available
        import importlib.metadata
        from packaging import version
        from importlib.metadata import version as v
        if version.parse(importlib.metadata.version("transformers")) < version.parse("4.46"):
            args = TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
        if version.parse(v("transformers")) < version.parse("4.46"):
            args = TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
        NEW = version.parse(importlib.metadata.version("transformers")) >= version.parse("4.46")
        if not NEW:
            args = TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
        key = "eval_strategy" if NEW else "evaluation_strategy"
    """,
    "try except ImportError": """
        try:
            from peft import prepare_model_for_kbit_training as prepare
        except ImportError:
            from peft import prepare_model_for_int8_training as prepare
        b = prepare(base())
        try:
            from peft import prepare_model_for_int8_training
        except ImportError:
            prepare_model_for_int8_training = prepare_model_for_kbit_training
        b = prepare_model_for_int8_training(b)
    """,
    "try except TypeError": """
        def arguments():
            try:
                return TrainingArguments("x", eval_strategy="epoch", learning_rate=1e-4)
            except TypeError:
                return TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
        try:
            a = TrainingArguments("x", evaluation_strategy="epoch", learning_rate=1e-4)
        except TypeError:
            a = TrainingArguments("x", eval_strategy="epoch", learning_rate=1e-4)
    """,
    "hasattr module": """
        import peft
        if hasattr(peft, "prepare_model_for_kbit_training"):
            b = peft.prepare_model_for_kbit_training(base())
        else:
            b = peft.prepare_model_for_int8_training(base())
    """,
    "none default replaced": """
        def main(path=None):
            m = base()
            if not path:
                m = get_peft_model(m, cfg)
            if path:
                m = PeftModel.from_pretrained(m, path)
            return m
    """,
    "len guard": """
        def main(paths):
            m = base()
            if len(paths) > 0:
                m = PeftModel.from_pretrained(m, paths[0])
            if len(paths) == 0:
                m = get_peft_model(m, cfg)
            return m
    """,
    "lower() compare": """
        def main(args):
            m = base()
            if args.mode.lower() == "lora":
                m = get_peft_model(m, cfg)
            if args.mode.lower() == "resume":
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "in strings": """
        def main(args):
            m = base()
            if "lora" in args.mode:
                m = get_peft_model(m, cfg)
            if "lora" not in args.mode:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "compare numbers": """
        def main(args):
            m = base()
            if args.r > 0:
                m = get_peft_model(m, cfg)
            if args.r <= 0:
                m = PeftModel.from_pretrained(m, "x")
            if not args.r > 0:
                m = PeftModel.from_pretrained(m, "x")  #! LD101
            return m
    """,
    "chained guard in functions": """
        def wrap(m, args):
            if args.lora:
                m = get_peft_model(m, cfg)
            return m
        def resume(m, args):
            if not args.lora:
                m = PeftModel.from_pretrained(m, "x")
            return m
        def main():
            args = argparse.ArgumentParser().parse_args()
            m = resume(wrap(base(), args), args)
        main()
    """,
    "guard on config dict": """
        def main(cfg_):
            m = base()
            if cfg_["lora"]:
                m = get_peft_model(m, cfg)
            if not cfg_["lora"]:
                m = PeftModel.from_pretrained(m, "x")
            if cfg_.get("resume"):
                m = m.merge_and_unload()
            if not cfg_.get("resume"):
                m.train()
            return m
    """,
    "guard on config .get": """
        def main(config):
            m = base()
            if config.get("lora", False):
                m = get_peft_model(m, cfg)
            if not config.get("lora", False):
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "guard on env": """
        m = base()
        if os.environ.get("LORA"):
            m = get_peft_model(m, cfg)
        if not os.environ.get("LORA"):
            m = PeftModel.from_pretrained(m, "x")
    """,
    "guard reassigned": """
        def main(flag):
            m = base()
            if flag:
                m = get_peft_model(m, cfg)
            flag = check()
            if not flag:
                m = PeftModel.from_pretrained(m, "x")  #! LD101 warning
            return m
    """,
    "two values of a boolean op": """
        def main(resume, path):
            use = resume or path
            m = base()
            if use:
                m = PeftModel.from_pretrained(m, path)
            else:
                m = get_peft_model(m, cfg)
            if not use:
                m.train()
            else:
                m = get_peft_model(m, cfg)  #! LD102
    """,
    "checkpoint or none": """
        from transformers.trainer_utils import get_last_checkpoint
        def main(args):
            last = get_last_checkpoint(args.out)
            m = base()
            if last is not None:
                m = PeftModel.from_pretrained(m, last, is_trainable=True)
            else:
                m = get_peft_model(m, cfg)
            if last is None:
                m.print_trainable_parameters()
            return m
    """,
    "method guard": """
        class Run:
            def use_lora(self):
                return self.args.lora
            def go(self):
                m = base()
                if self.use_lora():
                    m = get_peft_model(m, cfg)
                if not self.use_lora():
                    m = PeftModel.from_pretrained(m, "x")
                return m
    """,
    "enum guard": """
        from enum import Enum
        class Mode(Enum):
            FRESH = "fresh"
            RESUME = "resume"
        def main(mode):
            m = base()
            if mode == Mode.FRESH:
                m = get_peft_model(m, cfg)
            if mode == Mode.RESUME:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "enum identity guard": """
        from enum import Enum
        class Mode(Enum):
            FRESH = "fresh"
            RESUME = "resume"
        def main(mode):
            m = base()
            if mode is Mode.FRESH:
                m = get_peft_model(m, cfg)
            elif mode is Mode.RESUME:
                m = PeftModel.from_pretrained(m, "x")
            if mode is Mode.RESUME:
                m.eval()
            return m
    """,
    "del": """
        m = get_peft_model(base(), cfg)
        del m
        m = base()
        PeftModel.from_pretrained(m, "x")
    """,
    "three-way flags": """
        def main(args):
            use_lora = args.mode == "lora"
            resume = args.mode == "resume"
            m = base()
            if use_lora:
                m = get_peft_model(m, cfg)
            if resume:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "flag by and": """
        def main(args):
            fresh = args.lora and args.path is None
            m = base()
            if fresh:
                m = get_peft_model(m, cfg)
            if args.path is not None:
                m = PeftModel.from_pretrained(m, args.path)
            return m
    """,
    "flag by or": """
        def main(args):
            wrapped = args.lora or args.mode == "dora"
            m = base()
            if wrapped:
                m = get_peft_model(m, cfg)
            if not args.lora and args.mode != "dora":
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "elif chain in two functions": """
        def build(kind):
            m = base()
            if kind == "a":
                return m
            elif kind == "b":
                return get_peft_model(m, cfg)
            raise ValueError(kind)
        def run(kind):
            m = build(kind)
            if kind == "a":
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "is_main_process": """
        from accelerate import Accelerator
        def main():
            acc = Accelerator()
            m = get_peft_model(base(), cfg)
            if acc.is_main_process:
                m = m.merge_and_unload()
            if acc.is_main_process:
                m.save_pretrained("x")
    """,
    "dist rank": """
        import torch.distributed as dist
        def main():
            m = get_peft_model(base(), cfg)
            if dist.get_rank() == 0:
                m = m.merge_and_unload()
            if dist.get_rank() != 0:
                PeftModel.from_pretrained(base(), "x")
            if dist.get_rank() == 0:
                m = get_peft_model(m, cfg)
    """,
    "exists, then saved there": """
        def main(out):
            m = base()
            if not os.path.exists(out):
                w = get_peft_model(m, cfg)
                w.save_pretrained(out)
                m = w
            if os.path.exists(out):
                m = PeftModel.from_pretrained(m, out)  #! LD101 warning
            return m
    """,
    "args namespace from vars": """
        args = argparse.Namespace(**vars(argparse.ArgumentParser().parse_args()))
        m = base()
        if args.lora:
            m = get_peft_model(m, cfg)
        if not args.lora:
            m = PeftModel.from_pretrained(m, "x")
    """,
    "an optuna objective": """
        import optuna
        b = base()
        def objective(trial):
            m = get_peft_model(b, LoraConfig(r=trial.suggest_int("r", 4, 16)))
            Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4)).train()
            return 1.0
        optuna.create_study().optimize(objective, n_trials=3)
    """,
    "kwargs popped": """
        def load(path, **kwargs):
            trainable = kwargs.pop("is_trainable", True)
            return PeftModel.from_pretrained(base(), path, is_trainable=trainable, **kwargs)
        Trainer(model=load("x"), args=TrainingArguments("x", learning_rate=1e-4)).train()
    """,
    "any() all() guards": """
        def main(flags):
            m = base()
            wanted = any(flags)
            if wanted:
                m = get_peft_model(m, cfg)
            if not wanted:
                m = PeftModel.from_pretrained(m, "x")
            return m
    """,
    "chained comparison": """
        def main(step):
            m = base()
            if 0 < step < 10:
                m = get_peft_model(m, cfg)
            else:
                m = PeftModel.from_pretrained(m, "x")
    """,
    "model as default argument": """
        b = get_peft_model(base(), cfg)
        def go(m=b):
            return PeftModel.from_pretrained(m, "x")  #! LD101
        go()
    """,
    "instance attribute set from outside": """
        class Run:
            model = None
            def load(self): self.model = PeftModel.from_pretrained(self.model, "x")  #! LD101
        r = Run()
        r.model = get_peft_model(base(), cfg)
        r.load()
    """,
    "namedtuple": """
        from collections import namedtuple
        from typing import NamedTuple
        Pair = namedtuple("Pair", "model tok")
        class Other(NamedTuple):
            model: object
            tok: object = None
        p = Pair(get_peft_model(base(), cfg), 1)
        o = Other(get_peft_model(base(), cfg))
        PeftModel.from_pretrained(o.model, "x")  #! LD101
        m, tok = o
    """,
    "simple namespace": """
        from types import SimpleNamespace
        s = SimpleNamespace(model=get_peft_model(base(), cfg))
        PeftModel.from_pretrained(s.model, "x")  #! LD101
    """,
    "ternary base": """
        def main(quant):
            q = BitsAndBytesConfig(load_in_4bit=True) if quant else None
            m = AutoModelForCausalLM.from_pretrained("x", quantization_config=q)
            if quant:
                m = prepare_model_for_kbit_training(m)
            m = get_peft_model(m, cfg)
            Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4)).train()
    """,
    "two models, each wrapped once in its turn": """
        one, two = base(), base()
        for m, name in [(one, "one"), (two, "two")]:
            w = get_peft_model(m, cfg)
            w.save_pretrained(name)
    """,
    "a stream of text with a thread": """
        from threading import Thread
        from transformers import TextIteratorStreamer
        def stream(m, tok, prompt):
            streamer = TextIteratorStreamer(tok)
            Thread(target=m.generate, kwargs=dict(streamer=streamer)).start()
            for text in streamer:
                yield text
        m = PeftModel.from_pretrained(base(), "x").eval()
        for text in stream(m, None, "hello"):
            print(text)
    """,
    "merge in a helper and return": """
        def merged(m):
            if isinstance(m, PeftModel):
                m = m.merge_and_unload()
            return m
        m = PeftModel.from_pretrained(base(), "x")
        merged(m).save_pretrained("out")
        n = merged(m)
    """,
    "unwrap chain": """
        def unwrap(m):
            while hasattr(m, "module"):
                m = m.module
            return m
        m = get_peft_model(base(), cfg)
        Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4)).train()
        unwrap(m).save_pretrained("x")
    """,
    "a callback that saves": """
        from transformers import TrainerCallback
        class SavePeft(TrainerCallback):
            def on_save(self, args, state, control, **kwargs):
                path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
                kwargs["model"].save_pretrained(path)
                return control
        m = get_peft_model(base(), cfg)
        t = Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4), callbacks=[SavePeft()])
        t.train()
        t.save_model("x")
    """,
    "model in a dict of models by name": """
        models = {}
        for name in ("a", "b"):
            models[name] = PeftModel.from_pretrained(base(), name)
        models["a"].eval()
        print(models["b"].generate())
    """,
    "class-level cache": """
        class Pool:
            cache = {}
            @classmethod
            def get(cls, name):
                if name not in cls.cache:
                    cls.cache[name] = AutoModelForCausalLM.from_pretrained(name)
                return cls.cache[name]
        def adapt(name, path):
            return PeftModel.from_pretrained(Pool.get(name), path)
    """,
    "module-level cache": """
        _model = None
        def get():
            global _model
            if _model is None:
                _model = get_peft_model(base(), cfg)
            return _model
        def answer(q):
            return get().generate(q)
        def again(q):
            return PeftModel.from_pretrained(get(), q)  #! LD101
    """,
    "reload on failure": """
        def load(paths):
            m = base()
            for p in paths:
                try:
                    return PeftModel.from_pretrained(m, p)
                except (OSError, ValueError) as error:
                    print(error)
            raise RuntimeError("none")
        load(["x", "y"])
    """,
    "resume in the trainer only": """
        def main(args):
            m = get_peft_model(base(), cfg)
            t = Trainer(model=m, args=TrainingArguments("x", learning_rate=1e-4))
            last = None
            if os.path.isdir("x") and not args.overwrite:
                last = "x"
            if args.resume is not None:
                last = args.resume
            t.train(resume_from_checkpoint=last)
            t.save_model()
    """,
    "an adapter directory that transformers has read": """
        def load(path):
            m = AutoModelForCausalLM.from_pretrained(path)
            if hasattr(m, "peft_config"):
                m = PeftModel.from_pretrained(m, path + "/adapter")
            return m
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert findings(PROGRAMS[name]) == expected(PROGRAMS[name])
