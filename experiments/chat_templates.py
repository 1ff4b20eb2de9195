"""Chat templates: how messages become one text, and which of it is trained on (`{% generation %}` blocks).

They are experiment, not library: a model answers well only to the template that it was trained with, so the template is
part of what a model is. The special tokens of each must be in the tokenizer: `CHATML_TOKENS`, `LLAMA3_TOKENS`.
"""

from marin.processing.tokenize.config import ChatFormat

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
"""Special tokens that CHATML writes beside the tokenizer's own."""

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' ~ message.role ~ '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}
{{- message.content ~ '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- message.content ~ '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
"""Each turn between <|im_start|>role and <|im_end|>, a line each."""

LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
"""Special tokens that LLAMA3 writes beside the tokenizer's own."""

LLAMA3 = """\
{{- '<|begin_of_text|>' }}
{%- for message in messages %}
{{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}
{{- message.content | trim ~ '<|eot_id|>' }}
{%- endgeneration %}
{%- else %}
{{- message.content | trim ~ '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
"""As the instruct models of Llama 3 are spoken to: the role in a header, <|eot_id|> after each turn."""

PLAIN = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- generation %}
{{- message.content ~ eos_token }}
{%- endgeneration %}
{%- else %}
{{- message.content }}
{%- endif %}
{%- endfor %}"""
"""Messages as they stand, the end-of-text token after each answer: for prompts that bring their own wording, and for
tokenizers without tokens for turns."""

CHATML_FORMAT = ChatFormat(template=CHATML, stop_token="<|im_end|>")
LLAMA3_FORMAT = ChatFormat(template=LLAMA3, stop_token="<|eot_id|>")
PLAIN_FORMAT = ChatFormat(template=PLAIN)
