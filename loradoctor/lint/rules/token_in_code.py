"""LD453."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.module import Module
from loradoctor.rule import rule

_TOKEN = re.compile(r"(?<![A-Za-z0-9_])hf_([A-Za-z0-9]{34})(?![A-Za-z0-9_])")
_STAND_IN = re.compile(r"(.)\1\1|example|token|placeholder|secret|your|replace|redacted", re.IGNORECASE)
_DISTINCT = 14
_RUN = 5


@rule("LD453", Severity.ERROR, "SE4")
def token_in_code(module: Module) -> Iterator[Finding]:
    """An access token of the Hugging Face Hub stands in the code.

    Whoever can read the file, or a commit that once held it, can use the account: read private models and, with a write
    token, replace published ones. Deleting the line does not help, since the history keeps it.

    ```python
    from huggingface_hub import login
    from peft import AutoPeftModelForCausalLM

    login(token="hf_q7RkZ2mWbX9cTfL4vNyG8sJdHp3aKe6uQo")
    model = AutoPeftModelForCausalLM.from_pretrained("runs/last")
    ```
    What to write instead:
    ```python
    import os

    from huggingface_hub import login
    from peft import AutoPeftModelForCausalLM

    login(token=os.environ["HF_TOKEN"])
    model = AutoPeftModelForCausalLM.from_pretrained("runs/last")
    ```
    """
    for match in _TOKEN.finditer(module.source.text):
        if _is_real(match[1]):
            yield Finding(
                "an access token of the Hugging Face Hub stands in the code",
                module.source.location(*match.span()),
                "whoever reads this can use the account; revoke the token, and take the new one from `HF_TOKEN` or `hf auth login`",
            )


def _is_real(secret: str) -> bool:
    """Whether this looks drawn at random rather than made up to show where a token goes."""
    if _STAND_IN.search(secret) or secret in (secret.lower(), secret.upper()) or len(set(secret)) < _DISTINCT:
        return False
    steps = [ord(b) - ord(a) for a, b in zip(secret.lower(), secret.lower()[1:], strict=False)]
    return not any(steps[i : i + _RUN] == [1] * _RUN for i in range(len(steps)))
