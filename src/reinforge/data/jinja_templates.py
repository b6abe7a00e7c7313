"""The named chat templates in Jinja, as others' tools carry them: written when a model is exported, never run here."""

from __future__ import annotations

from collections.abc import Mapping

from reinforge.data.templates import QWEN_CALLS, QWEN_SYSTEM, QWEN_TOOLS


def _literal(text: str) -> str:
    """A text as Jinja's own syntax writes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


_REFUSE_TOOLS = "{%- if tools %}{{ raise_exception('this template has no way to write tools') }}{% endif -%}"

_CHATML = (
    _REFUSE_TOOLS + "{{ bos_token if bos_token else '' }}{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_LLAMA3 = (
    _REFUSE_TOOLS + "{{ bos_token if bos_token else '' }}{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + "
    "'<|eot_id|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
)
_GEMMA = (
    _REFUSE_TOOLS + "{{ bos_token if bos_token else '' }}"
    "{%- if messages[0]['role'] == 'system' -%}{%- set before = messages[0]['content'] + '\\n\\n' -%}"
    "{%- set turns = messages[1:] -%}{%- else -%}{%- set before = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for message in turns -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('user and assistant take turns, the user first') }}{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' + "
    "(before if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)
_PLAIN = (
    _REFUSE_TOOLS + "{{ bos_token if bos_token else '' }}{%- for message in messages -%}{{ message['content'] }}"
    "{%- if message['role'] == 'assistant' -%}{{ eos_token if eos_token else '' }}{%- endif -%}{%- endfor -%}"
)

# What offers tools, and how they are called and answered, is the same in both of Qwen's.
_OFFER = (
    "{{ " + _literal(QWEN_TOOLS) + " }}{%- for tool in tools -%}{{ '\\n' + (tool | tojson) }}{%- endfor -%}"
    "{{ " + _literal(QWEN_CALLS) + " }}"
)
_CALLED = (
    "{%- macro called(calls) -%}{%- for each in calls or [] -%}{%- set call = each.function or each -%}"
    "{{ ('' if loop.first else '\\n') + '<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' }}"
    "{{ (call.arguments if call.arguments is string else call.arguments | tojson) + '}\\n</tool_call>' }}"
    "{%- endfor -%}{%- endmacro -%}"
)
_ANSWERED = (
    "{%- if message.role == 'tool' -%}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}"
    "{{ '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{ '<|im_end|>\\n' }}{%- endif -%}"
)
_ENDED = "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
_QWEN = (
    _CALLED + "{{ '<|im_start|>system\\n' }}"
    "{{ messages[0].content if messages[0].role == 'system' else " + _literal(QWEN_SYSTEM) + " }}"
    "{%- if tools -%}{{ '\\n\\n' }}" + _OFFER + "{%- endif -%}{{ '<|im_end|>\\n' }}"
    "{%- for message in messages -%}" + _ANSWERED + "{%- elif not (loop.first and message.role == 'system') -%}"
    "{%- set content, calls = message.content or '', called(message.tool_calls) -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + content + ('\\n' if content and calls else '') + calls }}"
    "{{ '<|im_end|>\\n' }}" + _ENDED
)
_QWEN3 = (
    _CALLED + "{%- set system = messages[0].content if messages[0].role == 'system' else none -%}"
    "{%- if tools -%}{{ '<|im_start|>system\\n' + ('' if system is none else system + '\\n\\n') }}"
    + _OFFER
    + "{{ '<|im_end|>\\n' }}{%- elif system is not none -%}{{ '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}"
    "{%- endif -%}"
    # Thoughts stay only after the last question.
    "{%- set last = namespace(asked=messages | length - 1) -%}"
    "{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set last.asked = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for message in messages -%}" + _ANSWERED + "{%- elif message.role == 'assistant' -%}"
    "{%- set content, thought = message.content or '', message.reasoning_content or '' -%}"
    "{%- if not thought and '</think>' in content -%}"
    "{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}"
    "{%- set calls = called(message.tool_calls) -%}"
    "{{ '<|im_start|>assistant\\n' }}{%- set between = '\\n' if content and calls else '' -%}"
    "{%- if loop.index0 > last.asked and (thought or loop.last) -%}"
    "{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') + between + calls }}"
    "{%- else -%}{{ content + between + calls }}{%- endif -%}{{ '<|im_end|>\\n' }}"
    "{%- elif not (loop.first and message.role == 'system') -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}" + _ENDED
)

JINJA_TEMPLATES: Mapping[str, str] = {
    "chatml": _CHATML, "qwen": _QWEN, "qwen3": _QWEN3, "llama3": _LLAMA3, "gemma": _GEMMA, "plain": _PLAIN,
}  # fmt: skip
