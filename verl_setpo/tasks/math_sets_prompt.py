r"""How a question becomes the messages of a prompt."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

# SetPO's prompt for mathematics; Poly-EPO asks for a boxed answer too.
PAPERS = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
_JINJA = (".jinja", ".jinja2", ".j2")


@dataclass(frozen=True)
class Prompt:
    """A template for the user's message, and the system's message, if any.

    Args:
        template: a text in which {question} stands for the question, or a Jinja template with {{ question }}.
        jinja: whether it is a Jinja template.
        system: the system message; None for none.
    """

    template: str = PAPERS
    jinja: bool = False
    system: str | None = None

    def messages(self, question: str) -> list[dict[str, str]]:
        """The messages, in verl's and transformers' form. Braces in a question mean nothing."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self._user(question)}]

    def record(self) -> dict[str, Any]:
        """For dataset.json."""
        return {"prompt": self.template, "jinja": self.jinja, "system": self.system}

    def _user(self, question: str) -> str:
        if self.jinja:
            return _compiled(self.template).render(question=question)
        # Not str.format: the papers' prompt has the braces of \boxed{} in it.
        return self.template.replace("{question}", question)


def read_prompt(prompt: str | None, system: str | None) -> Prompt:
    """The prompt that the options --prompt and --system ask for; the papers' own where `prompt` is None.

    Args:
        prompt: a text with {question}, the name of a file that holds one, or of a Jinja template (.jinja, .jinja2,
            .j2) with {{ question }}.
        system: the system message.

    Raises ValueError when the question has no place in it, or Jinja refuses it.
    """
    from jinja2 import TemplateError

    if prompt is None:
        return Prompt(system=system)
    file = _file(prompt)
    template = prompt if file is None else file.read_text(encoding="utf-8").rstrip("\n")
    read = Prompt(template, jinja=file is not None and file.suffix in _JINJA, system=system)
    mark = "a question with {braces} and {{ more }}"
    try:
        shown = read.messages(mark)[-1]["content"]
    except TemplateError as error:
        raise ValueError(f"--prompt {prompt} is no Jinja template that Jinja can render: {error}") from error
    if mark not in shown:
        place = "{{ question }}" if read.jinja else "{question}"
        what = f"--prompt {prompt:.80}" + ("" if file is not None else " is no file, and as a text it")
        raise ValueError(f"{what} has no {place}: put it where the question goes")
    return read


def _file(prompt: str) -> Path | None:
    try:
        return Path(prompt) if Path(prompt).is_file() else None
    except (OSError, ValueError):  # A long text, or one with a null byte, is no name of a file.
        return None


@lru_cache(maxsize=8)
def _compiled(template: str) -> "Template":
    from jinja2 import Environment, StrictUndefined

    # A prompt is plain text: to escape < and & would change the question.
    return Environment(undefined=StrictUndefined, autoescape=False).from_string(template)
