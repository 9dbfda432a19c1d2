import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A base model's directory, a trained adapter's beside it, and an untrained one's."""
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
    base = LlamaForCausalLM(LlamaConfig(**sizes))
    base.save_pretrained(directory / "base")
    base = LlamaForCausalLM.from_pretrained(directory / "base")
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(directory / "untrained")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(directory / "trained")
    return directory
