"""The named chat templates in Jinja, as others' tools carry them: written when a model is exported, never run here."""

from __future__ import annotations

from collections.abc import Mapping

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

# By template; those with tools stay in the folders of the models that were trained with them.
JINJA_TEMPLATES: Mapping[str, str] = {"chatml": _CHATML, "llama3": _LLAMA3, "gemma": _GEMMA, "plain": _PLAIN}
