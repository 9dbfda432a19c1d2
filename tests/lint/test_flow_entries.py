"""What frameworks call: trainers, Lightning, command lines, hooks."""

from __future__ import annotations

import pytest

from loradoctor.lint.flow import statements
from loradoctor.lint.module import analyse
from loradoctor.lint.source import Source
from tests.lint.test_flow import expected, findings

PROGRAMS = {
    "Trainer subclass hook save_model override": """
        class MyTrainer(Trainer):
            def save_model(self, output_dir=None, _internal_call=False):
                self.model.merge_and_unload()  #! LD301
                self.model.save_pretrained(output_dir)
            def compute_loss(self, model, inputs, return_outputs=False):
                out = model(**inputs)
                return out.loss
        m = get_peft_model(base(), cfg)
        t = MyTrainer(model=m)
        t.train()
        t.save_model("x")
    """,
    "Trainer subclass override uncalled": """
        class MyTrainer(Trainer):
            def save_model(self, output_dir=None, _internal_call=False):
                self.model.save_pretrained(output_dir)
            def training_step(self, model, inputs):
                self.model = PeftModel.from_pretrained(self.model, "x")
                return super().training_step(model, inputs)
    """,
    "Trainer subclass super train": """
        class MyTrainer(Trainer):
            def train(self, *a, **k):
                print("go")
                return super().train(*a, **k)
        m = PeftModel.from_pretrained(base(), "x")  #! LD104
        MyTrainer(model=m).train()
    """,
    "Trainer subclass with init naming model": """
        class MyTrainer(Trainer):
            def __init__(self, model, beta, **kwargs):
                super().__init__(model=model, **kwargs)  #! LD201
                self.beta = beta
        m = base()
        w = get_peft_model(m, cfg)
        MyTrainer(m, 0.1, args=TrainingArguments("x", learning_rate=1e-4)).train()
    """,
    "Lightning right": """
        import lightning as L
        class Lit(L.LightningModule):
            def __init__(self, name, lr=1e-4):
                super().__init__()
                self.model = get_peft_model(AutoModelForCausalLM.from_pretrained(name), cfg)
                self.lr = lr
            def training_step(self, batch, i):
                return self.model(**batch).loss
            def configure_optimizers(self):
                return torch.optim.AdamW(self.model.parameters(), lr=self.lr)
            def on_train_end(self):
                self.model.save_pretrained("out")
        L.Trainer().fit(Lit("gpt2"))
    """,
    "Lightning wrong resume": """
        import lightning as L
        class Lit(L.LightningModule):
            def __init__(self, name):
                super().__init__()
                self.model = get_peft_model(AutoModelForCausalLM.from_pretrained(name), cfg)
            def on_fit_start(self):
                self.model = PeftModel.from_pretrained(self.model, "x")  #! LD101
    """,
    "nn.Module": """
        class Net(torch.nn.Module):
            def __init__(self, name):
                super().__init__()
                self.llm = AutoModelForCausalLM.from_pretrained(name)
                self.llm = get_peft_model(self.llm, cfg)
                self.head = torch.nn.Linear(2, 2)
            def forward(self, x):
                return self.head(self.llm(x).logits)
            def resume(self, path):
                self.llm = PeftModel.from_pretrained(self.llm, path)  #! LD101
    """,
    "nn.Module optimizer": """
        class Net(torch.nn.Module):
            def __init__(self, name):
                super().__init__()
                self.llm = get_peft_model(AutoModelForCausalLM.from_pretrained(name), cfg)
            def forward(self, x):
                return self.llm(x)
        net = Net("gpt2")
        opt = torch.optim.AdamW(net.parameters(), lr=1e-4)
        for b in range(3):
            net(b).loss.backward()
            opt.step()
        net.llm.save_pretrained("x")
    """,
    "accelerate chain": """
        from accelerate import Accelerator
        acc = Accelerator()
        b = base()
        opt = torch.optim.AdamW(b.parameters(), lr=1e-4)  #! LD202
        m = get_peft_model(b, cfg)
        m, opt, dl = acc.prepare(m, opt, [1])
        for x in dl:
            acc.backward(m(x).loss)
            opt.step()
        acc.unwrap_model(m).save_pretrained("x")
    """,
    "accelerate unwrap": """
        from accelerate import Accelerator
        acc = Accelerator()
        m = get_peft_model(base(), cfg)
        opt = torch.optim.AdamW(m.parameters(), lr=1e-4)
        m, opt = acc.prepare(m, opt)
        u = acc.unwrap_model(m)
        PeftModel.from_pretrained(u, "x")  #! LD101
    """,
    "accelerate prepare single reassigned": """
        from accelerate import Accelerator
        class Run:
            def __init__(self):
                self.acc = Accelerator()
                self.model = get_peft_model(base(), cfg)
                self.model = self.acc.prepare(self.model)
            def load(self):
                m = self.acc.unwrap_model(self.model)
                PeftModel.from_pretrained(m, "x")  #! LD101
    """,
    "fire": """
        import fire
        def train(base_model: str = "gpt2", resume: str = None, r: int = 8):
            m = AutoModelForCausalLM.from_pretrained(base_model)
            m = get_peft_model(m, LoraConfig(r=r))
            if resume:
                m = PeftModel.from_pretrained(m, resume)  #! LD101
            return None
        if __name__ == "__main__":
            fire.Fire(train)
    """,
    "typer": """
        import typer
        app = typer.Typer()
        @app.command()
        def train(name: str = typer.Option("gpt2"), resume: bool = False):
            m = AutoModelForCausalLM.from_pretrained(name)
            m = get_peft_model(m, cfg)
            if resume:
                m = PeftModel.from_pretrained(m, "x")  #! LD101
        if __name__ == "__main__":
            app()
    """,
    "click": """
        import click
        @click.command()
        @click.option("--resume", is_flag=True)
        def main(resume):
            m = get_peft_model(base(), cfg)
            if resume:
                m = PeftModel.from_pretrained(m, "x")  #! LD101
        if __name__ == "__main__":
            main()
    """,
    "click values are unknown": """
        import click
        @click.command()
        @click.option("--resume", is_flag=True)
        @click.option("--mode", default="fresh")
        def main(resume, mode):
            m = base()
            if resume:
                m = PeftModel.from_pretrained(m, "x")
            else:
                m = get_peft_model(m, cfg)
            if resume:
                m.eval()
        main()
    """,
    "hydra": """
        import hydra
        from omegaconf import DictConfig
        @hydra.main(config_path="conf", config_name="train")
        def main(conf: DictConfig):
            m = AutoModelForCausalLM.from_pretrained(conf.model)
            if conf.lora.enabled:
                m = get_peft_model(m, cfg)
            if not conf.lora.enabled:
                m = PeftModel.from_pretrained(m, "x")
            if conf.lora.enabled and conf.resume:
                m = PeftModel.from_pretrained(m, conf.resume)  #! LD101
        if __name__ == "__main__":
            main()
    """,
    "defaults do not decide": """
        def train(resume=None, lora=True):
            m = base()
            if lora:
                m = get_peft_model(m, cfg)
            if resume is not None:
                m = PeftModel.from_pretrained(m, resume)  #! LD101 warning
            return m
        if __name__ == "__main__":
            import fire
            fire.Fire(train)
    """,
    "fire class": """
        import fire
        class Cli:
            def __init__(self, name="gpt2"):
                self.model = get_peft_model(AutoModelForCausalLM.from_pretrained(name), cfg)
            def resume(self, path):
                self.model = PeftModel.from_pretrained(self.model, path)  #! LD101
        fire.Fire(Cli)
    """,
    "called in the file with some arguments, by a framework with others": """
        @app.route("/load")
        def load(path=None):
            m = get_peft_model(base(), cfg)
            if path:
                m = PeftModel.from_pretrained(m, path)  #! LD101
        app.run()
    """,
    "optuna model_init": """
        def model_init():
            return get_peft_model(base(), cfg)
        t = Trainer(model_init=model_init)
        t.train()
        t.save_model("x")
    """,
    "optuna model_init shares base": """
        b = base()
        def model_init():
            return get_peft_model(b, cfg)
        t = Trainer(model_init=model_init)
        t.train()
    """,
    "if name guard": """
        def main():
            m = get_peft_model(base(), cfg)
            return PeftModel.from_pretrained(m, "x")  #! LD101
        if __name__ == "__main__":
            main()
    """,
    "uncalled methods in class with wrap in another uncalled one": """
        class Run:
            def __init__(self):
                self.model = None
            def build(self):
                self.model = get_peft_model(base(), cfg)
            def load(self):
                self.model = PeftModel.from_pretrained(base(), "x")
            def save(self):
                self.model.save_pretrained("x")
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert findings(PROGRAMS[name]) == expected(PROGRAMS[name])


def test_a_function_that_takes_too_long_does_not_keep_the_next_from_being_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "ALONE", 20)
    lines = "".join(f"    x{n} = AutoModel.from_pretrained('gpt2')\n" for n in range(40))
    text = (
        "from peft import LoraConfig, get_peft_model\nfrom transformers import AutoModel\n\n\n"
        f"def long():\n    for _ in range(3):\n        pass\n{lines}\n\n"
        "def short():\n    return get_peft_model(AutoModel.from_pretrained('gpt2'), LoraConfig())\n"
    )
    seen = analyse(Source.from_bytes("a.py", text.encode()))
    assert len(list(seen.calls("peft.get_peft_model"))) == 1
    assert not seen.trace.complete
