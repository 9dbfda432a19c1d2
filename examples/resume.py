"""Resume a LoRA run, then export the merged model: a script as people write it, with two bugs that raise no error."""

import sys

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

base, adapter, out = sys.argv[1:]

model = AutoModelForCausalLM.from_pretrained(base)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM"))
model = PeftModel.from_pretrained(model, adapter)
model.merge_and_unload()
model.save_pretrained(out)
